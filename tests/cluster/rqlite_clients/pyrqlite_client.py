"""What users of pyrqlite do, unmodified from PyPI: written on a follower, read on all; then the leader dies."""

import datetime
import signal
import sys

import pyrqlite.dbapi2 as dbapi2

signal.alarm(120)
ports = [int(port) for port in sys.argv[1:]]


def connect(port):
    return dbapi2.connect(host="127.0.0.1", port=port, detect_types=dbapi2.PARSE_DECLTYPES)


def fails(cursor, sql, *args):
    try:
        cursor.execute(sql, *args)
    except dbapi2.Error as error:
        return str(error)
    raise AssertionError(f"{sql} did not fail")


moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678)
day = datetime.date(2026, 1, 2)
odd = "fiona's é + % & ? \U0001f600"
with connect(ports[0]).cursor() as cur:
    cur.execute("DROP TABLE IF EXISTS foo")
    cur.execute(
        "CREATE TABLE foo (id integer not null primary key, name text unique, at timestamp, day date,"
        " dt datetime, pic blob, ok bool, score real)"
    )
    cur.execute("INSERT INTO foo(name, pic) VALUES(?, ?)", ("first", b"\x00\xff"))
    assert cur.lastrowid == 1, cur.lastrowid
    cur.executemany("INSERT INTO foo(name) VALUES(?)", seq_of_parameters=(("a",), ("b",)))
    assert cur.rowcount == 2, cur.rowcount
    values = dict(name=odd.replace("?", ""), at=moment, day=day, dt=moment, ok=True, score=1.5)
    cur.execute("INSERT INTO foo(name, at, day, dt, ok, score) VALUES(:name, :at, :day, :dt, :ok, :score)", values)
    cur.execute("UPDATE foo SET score = 2 WHERE id > 1")
    assert cur.rowcount == 3, cur.rowcount
    cur.execute("DELETE FROM foo WHERE id = 99")
    assert cur.rowcount == 0, cur.rowcount
    cur.execute("INSERT INTO foo(name) VALUES('queued')", queue=True, wait=True)
    assert "UNIQUE" in fails(cur, "INSERT INTO foo(name) VALUES(?)", ("a",))

for port in ports:
    connection = connect(port)
    with connection.cursor() as cur:
        cur.execute("SELECT * FROM foo WHERE name = ?", ("first",))
        row = cur.fetchone()
        assert (row["id"], row["pic"], row["at"]) == (1, b"\x00\xff", None), row
        assert cur.description[0][0] == "id" and cur.rowcount == 1 and cur.fetchone() is None
        cur.execute("SELECT * FROM foo WHERE score = 2 AND at IS NOT NULL")
        row = cur.fetchone()
        assert (row["at"], row["day"], row["ok"], row["name"]) == (moment, day, True, odd.replace("?", "")), row
        for level in ("none", "weak", "strong", "linearizable"):
            cur.execute("SELECT COUNT(*) FROM foo", consistency=level)
            assert level == "none" or cur.fetchone() == (5,)
        cur.execute("PRAGMA table_info(foo)")
        assert len(cur.fetchall()) == 8
        cur.execute("SELECT id FROM foo WHERE id < 0")
        assert cur.fetchall() == []
        assert "no such table" in fails(cur, "SELECT * FROM absent")
        assert "no such table" in fails(cur, "INSERT INTO absent VALUES(1)")
        assert [row[0] for row in connection.execute("SELECT id FROM foo ORDER BY id")] == [1, 2, 3, 4, 5]
    connection.ping()

# As Django finds out what there is (`db/backends/sqlite3/introspection.py`).
connection = connect(ports[0])
with connection.cursor() as cur:
    cur.execute("CREATE TABLE bar (id integer PRIMARY KEY, foo_id integer REFERENCES foo(id), UNIQUE (foo_id))")
    cur.execute("SELECT name, type FROM sqlite_master WHERE type in ('table', 'view') AND NOT name='sqlite_sequence'")
    assert {("foo", "table"), ("bar", "table")} <= {tuple(row) for row in cur.fetchall()}
    cur.execute('PRAGMA table_info("bar")')
    assert [tuple(row)[:3] for row in cur.fetchall()] == [(0, "id", "INTEGER"), (1, "foo_id", "INTEGER")]
    cur.execute('PRAGMA foreign_key_list("bar")')
    assert tuple(cur.fetchone())[2:5] == ("foo", "foo_id", "id")
    cur.execute('PRAGMA index_list("bar")')
    index = cur.fetchone()["name"]
    cur.execute(f'PRAGMA index_info("{index}")')
    assert tuple(cur.fetchone()) == (0, 1, "foo_id")

    print("kill the leader", flush=True)
    input()
    # The node that was asked goes on with another leader.
    for count in range(12):
        cur.execute("INSERT INTO bar(id, foo_id) VALUES(?, ?)", (count + 1, count + 100))
        assert cur.lastrowid == count + 1
    cur.execute("SELECT COUNT(*) FROM bar")
    assert cur.fetchone() == (12,)
print("done")
