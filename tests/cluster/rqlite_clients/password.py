"""pyrqlite with the password of a cluster, which it sends as HTTP Basic."""

import signal
import sys

import pyrqlite.dbapi2 as dbapi2

signal.alarm(60)
password, ports = sys.argv[1], [int(port) for port in sys.argv[2:]]

connection = dbapi2.connect(host="127.0.0.1", port=ports[0], user="anybody", password=password)
with connection.cursor() as cursor:
    cursor.execute("CREATE TABLE secrets (id INTEGER PRIMARY KEY, name TEXT)")
    cursor.execute("INSERT INTO secrets(name) VALUES(?)", ("fiona",))
    cursor.execute("SELECT name FROM secrets")
    assert [row[0] for row in cursor.fetchall()] == ["fiona"]

for wrong in ({}, {"user": "anybody", "password": "wrong"}):
    try:
        with dbapi2.connect(host="127.0.0.1", port=ports[0], **wrong).cursor() as cursor:
            cursor.execute("SELECT name FROM secrets")
    except dbapi2.Error as error:
        assert "401" in str(error), error
    else:
        raise AssertionError(f"{wrong} was let in")
print("done")
