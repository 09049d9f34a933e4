#!/usr/bin/env python3
"""How long requests hold up the writes of others.

A probe writes a row every 10 ms while something large is done; printed is its longest wait.

    bench/hold.py PORT corpus    each statement of src/services/sql/tests/hostile.corpus, as a transaction that is undone
    bench/hold.py PORT clients   eight clients for 30 s, each with one dear request after another
    bench/hold.py PORT load      a file of 525 MB through /db/load, then a minute with digests, DELETE of ranges, DROP TABLE

PORT is the HTTP port of the leader of a fresh cluster: what stands in its database is replaced.
"""
import http.client
import json
import os
import re
import socket
import sqlite3
import sys
import tempfile
import threading
import time

TESTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "services", "sql", "tests")
PORT = int(sys.argv[1])


def post(path, body, kind="application/json", headers=None):
    client = http.client.HTTPConnection("127.0.0.1", PORT, timeout=300)
    client.request("POST", path, body, {"Content-Type": kind, **(headers or {})})
    answer = client.getresponse()
    text = answer.read().decode()
    client.close()
    return answer.status, text


def execute(sql):
    """Runs a statement, and retries while the answer is to retry."""
    while True:
        status, text = post("/db/execute", json.dumps([sql]))
        if status == 200:
            return text
        time.sleep(0.3)


class Probe(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.lock, self.waits = threading.Lock(), []
        execute("CREATE TABLE IF NOT EXISTS probe(x)")
        self.start()
        time.sleep(3)
        print(f"idle: longest wait {1000 * max(self.take()):.0f} ms")

    def run(self):
        client = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
        client.connect()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            begun = time.monotonic()
            client.request("POST", "/db/execute", '["INSERT INTO probe VALUES(1)"]', {"Content-Type": "application/json"})
            client.getresponse().read()
            with self.lock:
                self.waits.append(time.monotonic() - begun)
            time.sleep(0.01)

    def take(self):
        with self.lock:
            waits, self.waits = self.waits, []
        return waits or [0]

    def report(self, what):
        waits = sorted(self.take())
        p99 = waits[int(len(waits) * 0.99)]
        print(f"{what}: longest wait {1000 * waits[-1]:.0f} ms, p99 {1000 * p99:.0f} ms", flush=True)


def statements(name):
    """Lines of a corpus: their first word, and what they say when written out."""
    ends = {"@c": "", "@10k": " WHERE x < 10000", "@1k": " WHERE x < 1000", "@100": " WHERE x < 100"}
    for line in open(os.path.join(TESTS, name)):
        if not line.strip() or line.startswith("#"):
            continue
        word, sql = line.rstrip("\n").split(" ", 1)
        for mark, end in ends.items():
            sql = sql.replace(mark, f"WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c{end})")
        repeat = lambda found: "".join(found[2].replace("#", str(n)) for n in range(int(found[1])))
        yield word, re.sub(r"~(\d+)\*\{([^}]*)\}", repeat, sql)


def corpus():
    for times, sql in statements("hostile.fixtures"):
        for _ in range(int(times)):
            execute(sql)
    probe, results = Probe(), []
    for _, sql in statements("hostile.corpus"):
        post("/db/execute?transaction", json.dumps([sql, "SELECT this_undoes_it"]))
        time.sleep(0.15)
        results.append((max(probe.take()), sql))
    results.sort(reverse=True)
    for wait, sql in results[:10]:
        print(f"{1000 * wait:6.0f} ms  {sql[:110]}")
    waits = [wait for wait, _ in results]
    print(f"{len(waits)} statements: median {1000 * waits[len(waits) // 2]:.0f} ms, {sum(wait > 0.5 for wait in waits)} beyond 500 ms")


def clients():
    numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {})"
    execute("CREATE TABLE t(n, s)")
    execute("CREATE TABLE d(n, s)")
    execute("INSERT INTO d " + numbers.format(20000) + " SELECT x, 'name' || x FROM c")
    probe = Probe()
    dear = [
        "INSERT INTO t(n) " + numbers.format(10000) + " SELECT sum(strftime('%f%J%s', x)) FROM c",
        "UPDATE d SET n = n + 1, s = s || ''",
        "INSERT INTO t(n) SELECT count(*) FROM d a, d b WHERE a.n + b.n = 7 AND a.n < 100",
    ]
    ends, counts = time.monotonic() + 30, {"done": 0, "failed": 0}

    def run(number):
        while time.monotonic() < ends:
            _, text = post("/db/execute?timeout=20s", json.dumps([dear[number % 3]]))
            counts["failed" if "error" in text else "done"] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    probe.report(f"eight clients, requests {counts}")


def load():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "big.sqlite")
        file = sqlite3.connect(path)
        file.executescript("CREATE TABLE probe(x); CREATE TABLE big(id INTEGER PRIMARY KEY, a TEXT, b INT); CREATE INDEX bi ON big(b)")
        rows = (("x" * 400 + str(n), n * 7919 % 1000003) for n in range(1_120_000))
        file.executemany("INSERT INTO big(a, b) VALUES(?, ?)", rows)
        file.commit()
        file.close()
        size = os.path.getsize(path)
        probe, begun = Probe(), time.monotonic()
        with open(path, "rb") as body:
            status, text = post("/db/load", body, "application/octet-stream", {"Content-Length": str(size)})
        probe.report(f"load of {size // 1_000_000} MB ({status} {text.strip()}, {time.monotonic() - begun:.0f} s)")
    time.sleep(65)
    probe.report("a minute with a digest of it")
    for sql in ["DELETE FROM big WHERE id <= 20000", "DELETE FROM big WHERE id <= 70000", "DROP TABLE big"]:
        text = execute(sql)
        time.sleep(2)
        probe.report(f"{sql} {text.strip()[:90]}")


{"corpus": corpus, "clients": clients, "load": load}[sys.argv[2]]()
