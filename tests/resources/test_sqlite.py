"""SQLite as a resource. Its library keeps, for each process and file, what is locked: a child inherits that too."""

from __future__ import annotations

import contextlib
import gc
import os
import sqlite3

import pytest

import forksafe
from forksafe.testing import run_in_child


def connect(path):
    connection = sqlite3.connect(path, timeout=0.2, isolation_level=None)
    connection.execute("CREATE TABLE IF NOT EXISTS t (a)")
    return connection


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.db"


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "data.db-journal"


@pytest.fixture
def db(path):
    db = forksafe.resource(lambda: connect(path), close=sqlite3.Connection.close)
    yield db
    db.close()


def insert(connection, number):
    connection.execute("INSERT INTO t VALUES (?)", [number])


def rows(connection):
    return [row[0] for row in connection.execute("SELECT a FROM t")]


def intact(connection):
    return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_parent_and_child_write(db, fork):
    insert(db(), 1)

    def child():
        insert(db(), 2)
        db.close()
        return True

    assert run_in_child(child, fork=fork)
    insert(db(), 3)
    assert rows(db()) == [1, 2, 3] and intact(db())


def test_parents_transaction_goes_on(db, journal, fork):
    """A child leaves its parent's transaction."""
    holder = [db()]
    holder[0].execute("BEGIN IMMEDIATE")
    insert(holder[0], 1)

    def child():
        forksafe.generation()
        holder.clear()
        db.close()
        gc.collect()
        return journal.exists()

    assert run_in_child(child, fork=fork)
    assert journal.exists()  # without it, a crash now would leave the file half written
    db().execute("COMMIT")
    assert rows(db()) == [1] and intact(db())


def test_journal_removed(path, journal):
    """The control: a child that drops the connection removes its parent's journal."""
    holder = [connect(path)]
    holder[0].execute("BEGIN IMMEDIATE")
    insert(holder[0], 1)
    assert journal.exists()

    def child():
        holder.clear()
        gc.collect()
        return True

    assert run_in_child(child)
    assert not journal.exists()
    holder[0].close()


def in_wal_mode(db):
    db().execute("PRAGMA journal_mode=WAL")
    insert(db(), 1)


def test_wal_open_at_fork(db):
    """The child is told."""
    in_wal_mode(db)

    def child():
        for _ in range(2):
            with pytest.raises(forksafe.ForkHazardWarning, match=r"forksafe\.before\(db\.close\)"):
                db()  # it is an error in these tests
        return True

    assert run_in_child(child)
    insert(db(), 2)
    assert rows(db()) == [1, 2] and intact(db())


def test_wal_child_writes_lost(path):
    """SQLite has the child believe that the file is locked for it; so the parent, closing it, removes the log."""
    connection = connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    insert(connection, 1)
    opened, closed = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        try:
            own = connect(path)
            insert(own, 2)
            os.write(opened[1], b"!")
            os.read(closed[0], 1)
            insert(own, 3)  # without an error
            os._exit(0)
        finally:
            os._exit(3)
    try:
        assert os.read(opened[0], 1)
        connection.close()
        os.write(closed[1], b"!")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        for end in (*opened, *closed):
            os.close(end)
    with contextlib.closing(connect(path)) as again:
        assert rows(again) == [1, 2]


def test_wal_closed_before_fork(db, fork_name):
    """As the warning says. There are no hooks before a fork made by C."""
    in_wal_mode(db)
    registration = forksafe.register_at_fork(before=db.close)

    def child():
        insert(db(), 2)
        db.close()
        return True

    try:
        assert run_in_child(child)
        insert(db(), 3)
        assert run_in_child(lambda: rows(db())) == [1, 2, 3]
        assert rows(db()) == [1, 2, 3] and intact(db())
    finally:
        registration.unregister()


def test_another_file_is_not_warned_about(db, tmp_path):
    in_wal_mode(db)
    other = forksafe.resource(lambda: connect(tmp_path / "other.db"))
    in_wal_mode(other)
    other().close()
    assert run_in_child(lambda: rows(other()) == [1])
