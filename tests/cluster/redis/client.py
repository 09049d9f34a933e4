"""What redis-py users do, against the node on the port given: strings, pipelines, transactions, SCAN, Lock."""

import sys
import threading
import redis

port = int(sys.argv[1])
options = {"protocol": int(sys.argv[2])} if len(sys.argv) > 2 else {}
r = redis.Redis(port=port, client_name="py", **options)
r.flushall()

assert r.ping() is True
assert r.set("k", "v") is True and r.get("k") == b"v"
assert r.set("k", "w", nx=True) is None and r.set("k", "w", xx=True, get=True) == b"v"
assert r.set("t", "v", ex=100) and r.ttl("t") == 100 and r.persist("t") is True and r.ttl("t") == -1
assert r.setex("t", 10, "v") and r.expire("t", 100) is True and 99000 < r.pttl("t") <= 100000
assert r.incr("n") == 1 and r.incrby("n", 41) == 42 and r.decr("n", 2) == 40
assert r.mset({"a": 1, "b": 2}) is True and r.mget("a", "b", "none") == [b"1", b"2", None]
assert r.exists("a", "b", "none") == 2 and r.delete("a", "b") == 2 and r.type("k") == b"string"
assert r.append("k", "!") == 2 and r.strlen("k") == 2 and r.getset("k", "x") == b"w!" and r.getdel("k") == b"x"
assert r.setrange("part", 3, "abc") == 6 and r.getrange("part", 3, 4) == b"ab" and r.getex("part", ex=100) == b"\0\0\0abc"
assert r.ttl("part") == 100 and r.expiretime("part") > 1_700_000_000 if hasattr(r, "expiretime") else True
assert r.rename("part", "whole") and r.copy("whole", "copied") is True and r.renamenx("copied", "whole") is False
assert r.incrbyfloat("float", 0.1) == 0.1 and r.incrbyfloat("float", 0.2) == 0.3 and r.msetnx({"whole": 1, "x": 2}) is False
assert r.object("encoding", "float") == b"embstr" and r.memory_usage("whole") > 6 and r.randomkey() is not None
assert r.slowlog_len() == 0 and r.command_getkeys("MSET", "a", 1, "b", 2) in (["a", "b"], [b"a", b"b"])
assert r.delete("whole", "copied", "float") == 3
try:
    redis.Redis(port=port, db=1, **options).ping()
    raise AssertionError("there is one database")
except redis.ResponseError as e:
    assert "prefix" in str(e), e
assert r.dbsize() == 2 and sorted(r.keys("*")) == [b"n", b"t"]
binary = bytes(range(256)) * 100
assert r.set(b"\x00\xff", binary) and r.get(b"\x00\xff") == binary
try:
    r.incr(b"\x00\xff")
    raise AssertionError("a number was expected")
except redis.ResponseError as e:
    assert "not an integer" in str(e), e

r.flushall()
pipe = r.pipeline(transaction=False)
for i in range(500):
    pipe.set(f"key:{i}", i)
    pipe.get(f"key:{i}")
answers = pipe.execute()
assert answers == [x for i in range(500) for x in (True, str(i).encode())]
assert sorted(r.scan_iter(match="key:1*", count=7)) == sorted(f"key:{i}".encode() for i in range(500) if str(i)[0] == "1")
assert len(set(r.scan_iter())) == 500

with r.pipeline() as tx:
    tx.watch("key:0")
    value = int(tx.get("key:0"))
    tx.multi()
    tx.set("key:0", value + 7)
    tx.get("key:0")
    assert tx.execute() == [True, b"7"]
    tx.watch("key:0")
    r.set("key:0", "meanwhile")
    tx.multi()
    tx.set("key:0", "lost")
    try:
        tx.execute()
        raise AssertionError("the watched key had changed")
    except redis.WatchError:
        pass
assert r.get("key:0") == b"meanwhile"
assert r.transaction(lambda p: (p.multi(), p.incr("tx")), "tx") == [1]

lock = r.lock("lock", timeout=30)
assert lock.acquire() and lock.owned() and lock.locked()
assert r.lock("lock", timeout=30).acquire(blocking=False) is False
assert lock.extend(60) is True and r.pttl("lock") > 60000
assert lock.extend(10, replace_ttl=True) is True and r.pttl("lock") <= 10000
assert lock.reacquire() is True and r.pttl("lock") > 10000
lock.release()
assert r.exists("lock") == 0
try:
    lock.release()
    raise AssertionError("released twice")
except redis.exceptions.LockError:
    pass

total = [0]


def work():
    mine = redis.Redis(port=port, **options)
    for _ in range(5):
        with mine.lock("counter-lock", timeout=10, sleep=0.002):
            seen = total[0]
            mine.incr("counter")
            total[0] = seen + 1


threads = [threading.Thread(target=work) for _ in range(4)]
for t in threads:
    t.start()
for t in threads:
    t.join()
assert total == [20] and r.get("counter") == b"20", (total, r.get("counter"))

assert r.client_getname() in ("py", b"py") and r.client_id() > 0 and len(r.client_list()) >= 1
assert r.info()["loading"] == 0 and r.info("replication")["role"] == "master"
assert r.config_get("appendonly") == {"appendonly": "yes"} and r.command_count() > 50
assert "get" in r.command() and r.time()[0] > 1_700_000_000 and r.echo("hey") == b"hey"
print("redis-py", redis.__version__, "ok")
