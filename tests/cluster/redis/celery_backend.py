"""Celery with its result backend on a cluster: the worker at one node, the caller at another."""

import sys
import threading
import time

try:
    import celery
    import redis
except ImportError:
    print("celery is not installed (./test.sh installs it): skipped")
    sys.exit()

from celery.contrib.testing.worker import start_worker

ports = [int(port) for port in sys.argv[1:]]


def app(port):
    made = celery.Celery("tasks", broker="memory://", backend=f"redis://127.0.0.1:{port}/0")
    made.conf.update(result_expires=60, task_serializer="json", worker_hijack_root_logger=False)
    return made


worker_app, caller_app = app(ports[1]), app(ports[0])


@worker_app.task(name="add")
def add(a, b):
    return a + b


@worker_app.task(name="fail")
def fail():
    raise ValueError("on purpose")


with start_worker(worker_app, perform_ping_check=False, pool="solo", concurrency=1):
    # Results come by a message of the backend's channel for the task.
    results = [(n, worker_app.send_task("add", (n, 1))) for n in range(20)]
    for n, result in results:
        assert result.get(timeout=20) == n + 1
    # The caller asks another node for results of the same tasks.
    for n, result in results:
        assert caller_app.AsyncResult(result.id).get(timeout=20) == n + 1
    try:
        worker_app.send_task("fail").get(timeout=20)
        raise AssertionError("it fails")
    except ValueError as error:
        assert "on purpose" in str(error)
    # A caller that waits before the result is there hears of it from the other node.
    waiting = caller_app.AsyncResult("by-hand")
    heard = []
    thread = threading.Thread(target=lambda: heard.append(waiting.get(timeout=20)))
    thread.start()
    time.sleep(1)
    worker_app.backend.store_result("by-hand", "stored", "SUCCESS")
    thread.join(25)
    assert heard == ["stored"], heard
    result = results[0][1]
    result.forget()
    assert redis.Redis(port=ports[2]).exists(f"celery-task-meta-{result.id}") == 0
print("celery", celery.__version__, "redis-py", redis.__version__, "ok")
