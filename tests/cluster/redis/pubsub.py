"""What redis-py users do with channels: the subscriber at one node, the publisher at another."""

import sys
import time

try:
    import redis
except ImportError:
    print("redis-py is not installed (./test.sh installs it): skipped")
    sys.exit()

ports = [int(port) for port in sys.argv[1:]]
for protocol in (2, 3):
    options = {"protocol": protocol} if redis.VERSION[0] >= 5 else {}
    here, there = (redis.Redis(port=port, decode_responses=True, **options) for port in ports[:2])
    handled = []
    pubsub = here.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe("plain", **{"handled": lambda message: handled.append(message["data"])})
    pubsub.psubscribe("pat*")
    deadline = time.time() + 10
    # The confirmations have come when a message has.
    while pubsub.get_message(timeout=0.2) is None:
        there.publish("plain", "first")
        assert time.time() < deadline
    while pubsub.get_message(timeout=0.2):
        pass
    for n in range(100):
        there.publish("plain", n)
        there.publish("pattern", n)
        there.publish("handled", n)
        there.publish("other", n)
    got = []
    while len(got) < 200 or len(handled) < 100:
        message = pubsub.get_message(timeout=5)
        if message:
            got.append((message["type"], message["pattern"], message["channel"], message["data"]))
        assert time.time() < deadline, (len(got), len(handled))
    expected = [e for n in range(100) for e in (("message", None, "plain", str(n)), ("pmessage", "pat*", "pattern", str(n)))]
    assert got == expected and handled == [str(n) for n in range(100)], got
    assert here.publish("plain", "counted") == 1 and there.publish("plain", "not here") == 0
    assert sorted(here.pubsub_channels()) == ["handled", "plain"] and here.pubsub_numpat() == 1
    assert here.pubsub_numsub("plain", "none") == [("plain", 1), ("none", 0)]
    pubsub.unsubscribe()
    pubsub.punsubscribe()
    pubsub.close()
    thread = here.pubsub()
    heard = []
    thread.subscribe(**{"loop": lambda message: heard.append(message["data"])})
    runner = thread.run_in_thread(sleep_time=0.01)
    while not heard:
        there.publish("loop", "hello")
        time.sleep(0.05)
        assert time.time() < deadline + 10
    runner.stop()
    runner.join()
    assert set(heard) == {"hello"}
print("redis-py", redis.__version__, "pubsub ok")
