"""What users of rqdb do, unmodified from PyPI, with all nodes as hosts; the leader dies in the middle."""

import asyncio
import io
import signal
import sys

import rqdb
import rqdb.errors

signal.alarm(120)
hosts = [f"127.0.0.1:{port}" for port in sys.argv[1:]]

connection = rqdb.connect(hosts)
cursor = connection.cursor()
cursor.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE, score REAL)")
cursor.execute("INSERT INTO t(name, score) VALUES(?, ?)", ("fiona's ? \U0001f600", 1.5))
assert (cursor.rows_affected, cursor.last_insert_id, cursor.fetchone()) == (1, 1, None)
done = cursor.executemany2(
    ("INSERT INTO t(name) VALUES(?)", "UPDATE t SET score = ? WHERE id > ?"), (("declan",), (2.5, 1))
)
assert [item.rows_affected for item in done] == [1, 1], done
try:
    cursor.execute("INSERT INTO t(name) VALUES(?)", ("declan",))
    raise AssertionError("a second declan")
except rqdb.errors.DBError as error:
    assert "UNIQUE" in str(error), error
failed = cursor.executemany2(
    ("INSERT INTO t(name) VALUES('gone')", "INSERT INTO t(name) VALUES('declan')"), raise_on_error=False
)
assert failed[-1].error is not None

rows = [[1, "fiona's ? \U0001f600", 1.5], [2, "declan", 2.5]]
for level in ("none", "weak", "strong", "linearizable"):
    reader = connection.cursor(read_consistency=level, freshness="1m" if level == "none" else "")
    reader.execute("SELECT * FROM t ORDER BY id")
    assert level == "none" or [reader.fetchone() for _ in rows] == rows, level
both = cursor.executeunified2(("INSERT INTO t(name) VALUES(?)", "SELECT count(*) FROM t"), (("unified",), ()))
assert both[0].last_insert_id == 3 and both[1].results == [[3]], both
plan = cursor.explain("SELECT * FROM t WHERE name = ?", ("declan",), out="str")
assert "SEARCH t USING INDEX" in plan, plan

print("kill the leader", flush=True)
input()
# Each request begins at a host drawn at random: some at the dead one.
for count in range(12):
    cursor.execute("INSERT INTO t(name) VALUES(?)", (f"after {count}",))
    assert cursor.rows_affected == 1
cursor.execute("SELECT count(*) FROM t")
assert cursor.fetchone() == [15]


async def concurrently():
    async with rqdb.connect_async(hosts) as connection:
        cursor = connection.cursor("strong")
        insert = "INSERT INTO t(name) VALUES(?)"
        await asyncio.gather(*(connection.cursor().execute(insert, (f"a {count}",)) for count in range(8)))
        await cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == [23]


asyncio.run(concurrently())
backup = io.BytesIO()
connection.backup(backup)
assert backup.getvalue().startswith(b"SQLite format 3\0")
dump = io.BytesIO()
connection.backup(dump, raw=True)
assert b"CREATE TABLE t" in dump.getvalue()
print("done")
