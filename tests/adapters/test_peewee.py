"""protect() for peewee, against real servers; without it (the control) the parent's session ends."""

from __future__ import annotations

import gc

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.sql import PID

# peewee


def test_peewee(mariadb):
    peewee = pytest.importorskip("peewee")
    pytest.importorskip("pymysql")
    arguments = mariadb.arguments()
    for make in (peewee.MySQLDatabase, __import__("playhouse.pool").pool.PooledMySQLDatabase):
        database = forksafe.protect(make(arguments.pop("database", "test"), **arguments))

        def session(database=database):
            return database.execute_sql("SELECT CONNECTION_ID()").fetchone()[0]

        mine = session()
        assert run_in_child(lambda session=session: (session(), gc.collect())[0]) != mine
        assert session() == mine
        database.close()


def test_peewee_on_postgres(postgres, fork):
    peewee = pytest.importorskip("peewee")
    pytest.importorskip("psycopg2")
    database = peewee.PostgresqlDatabase("postgres", user="postgres", host=postgres.folder, port=postgres.port)
    forksafe.protect(database)

    def session():
        return database.execute_sql(PID).fetchone()[0]

    mine = session()
    assert run_in_child(lambda: (forksafe.generation(), session(), database.close())[1], fork=fork) != mine
    assert session() == mine
    database.close()


def test_control_peewee(postgres):
    peewee = pytest.importorskip("peewee")
    pytest.importorskip("psycopg2")
    database = peewee.PostgresqlDatabase("postgres", user="postgres", host=postgres.folder, port=postgres.port)
    database.execute_sql(PID)
    run_in_child(lambda: database.close() and None)
    with pytest.raises(peewee.DatabaseError):
        database.execute_sql(PID)
