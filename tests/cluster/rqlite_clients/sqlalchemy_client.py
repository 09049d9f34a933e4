"""What users of SQLAlchemy and Alembic do over sqlalchemy-rqlite, unmodified from PyPI, on a follower; the leader dies.

Not here: a column of type JSON, which pyrqlite takes for a blob.
"""

import datetime
import signal
import sys
import tempfile

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import orm
from sqlalchemy_rqlite.pyrqlite import SQLiteDialect_rqlite

signal.alarm(240)
# Release 2.0 does not say this, and SQLAlchemy needs it to show columns; the repository's version does.
SQLiteDialect_rqlite._get_server_version_info = lambda self, _: self.dbapi.sqlite_version_info
url = f"rqlite+pyrqlite://127.0.0.1:{sys.argv[1]}/"
# Dates come as Python dates: https://docs.sqlalchemy.org, "Using Native Date Types".
engine = sa.create_engine(url, native_datetime=True)


class Base(orm.DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    name: orm.Mapped[str] = orm.mapped_column(sa.String(30), unique=True)
    at: orm.Mapped[datetime.datetime]
    day: orm.Mapped[datetime.date]
    ok: orm.Mapped[bool]
    score: orm.Mapped[float]
    items: orm.Mapped[list["Item"]] = orm.relationship(back_populates="user")


class Item(Base):
    __tablename__ = "items"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    user_id: orm.Mapped[int] = orm.mapped_column(sa.ForeignKey("users.id"), index=True)
    price: orm.Mapped[float]
    user: orm.Mapped[User] = orm.relationship(back_populates="items")


def user(name):
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678)
    return User(name=name, at=moment, day=moment.date(), ok=True, score=1.5)


# Schema tools: what is created is what is found.
Base.metadata.create_all(engine)
found = sa.inspect(engine)
assert sorted(found.get_table_names()) == ["items", "users"], found.get_table_names()
assert [column["name"] for column in found.get_columns("users")] == ["id", "name", "at", "day", "ok", "score"]
assert found.get_pk_constraint("users")["constrained_columns"] == ["id"]
assert found.get_foreign_keys("items")[0]["referred_table"] == "users"
assert found.get_indexes("items")[0]["column_names"] == ["user_id"]
assert found.get_unique_constraints("users")[0]["column_names"] == ["name"]
assert not found.has_table("absent")
reflected = sa.MetaData()
reflected.reflect(engine)
assert sorted(reflected.tables) == ["items", "users"]
with engine.connect() as connection:
    assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []

# Rows.
with orm.Session(engine) as session:
    fiona = user("fiona's + % \U0001f600")
    fiona.items = [Item(price=1.25), Item(price=2.5)]
    session.add(fiona)
    session.commit()
    assert (fiona.id, [item.id for item in fiona.items]) == (1, [1, 2])
print("kill the leader", flush=True)
input()
with orm.Session(engine) as session:
    read = session.scalars(sa.select(User)).one()
    assert (read.name, read.at, read.day) == (fiona.name, user("").at, datetime.date(2026, 1, 2)), vars(read)
    assert (read.ok, read.score, [item.price for item in read.items]) == (True, 1.5, [1.25, 2.5])
    read.score = 3
    session.add_all(user(f"n{count}") for count in range(10))
    session.delete(read.items[0])
    session.commit()
    assert session.scalar(sa.select(sa.func.count()).select_from(User)) == 11
    assert session.scalar(sa.select(User.score).where(User.id == 1)) == 3
    assert session.scalar(sa.select(sa.func.count()).select_from(Item).join(User)) == 1
    insert = sa.insert(User).values(name="r", at=fiona.at, day=fiona.day, ok=False, score=0)
    assert session.execute(insert.returning(User.id)).all() == [(12,)]
    try:
        session.execute(sa.text("INSERT INTO items(id, user_id, price) VALUES(2, 1, 1)"))
        raise AssertionError("a second item 2")
    except sa.exc.DBAPIError as error:
        assert "UNIQUE" in str(error), error
Base.metadata.drop_all(engine)

# Migrations: a table, then another column and a longer one (a copy of the table takes its place), and back.
with tempfile.TemporaryDirectory() as folder:
    command.init(Config(f"{folder}/alembic.ini"), f"{folder}/migrations")
    config = Config(f"{folder}/alembic.ini")
    config.set_main_option("sqlalchemy.url", url)
    steps = [
        (
            "one",
            """
    op.create_table("people", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(30)))
    op.execute("INSERT INTO people(name) VALUES('fiona')")
""",
            """
    op.drop_table("people")
""",
        ),
        (
            "two",
            """
    with op.batch_alter_table("people") as batch:
        batch.add_column(sa.Column("age", sa.Integer, server_default="3", nullable=False))
        batch.alter_column("name", type_=sa.String(60), nullable=False)
""",
            """
    with op.batch_alter_table("people") as batch:
        batch.drop_column("age")
""",
        ),
    ]
    before = None
    for name, up, down in steps:
        with open(command.revision(config, message=name, rev_id=name).path, "w") as file:
            file.write(
                f"import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = {name!r}, {before!r}\n"
                f"def upgrade():{up}\ndef downgrade():{down}"
            )
        before = name
    command.upgrade(config, "head")
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM people")).all() == [(1, "fiona", 3)]
        assert MigrationContext.configure(connection).get_current_revision() == "two"
    command.downgrade(config, "one")
    assert [column["name"] for column in sa.inspect(engine).get_columns("people")] == ["id", "name"]
    command.downgrade(config, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
print("done")
