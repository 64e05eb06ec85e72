"""protect() for SQLAlchemy's engines and sessions, against a real PostgreSQL.

The parent's session survives whatever a child does; without protect() (the controls) it ends or is garbled.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing

import pytest

import forksafe
from forksafe.testing import run_in_child
from forksafe_core import atfork
from support.sql import PID, scalar


@pytest.fixture
def engine(postgres, tls):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg2")
    engine = sqlalchemy.create_engine(postgres.url(tls=tls), pool_size=3)
    yield engine
    engine.dispose()


CHILDS = {
    "use": lambda engine: scalar(engine),
    "collect": lambda engine: gc.collect() and 0,
    "dispose": lambda engine: (engine.dispose(), scalar(engine))[1],
    "dispose(close=False)": lambda engine: (engine.dispose(close=False), scalar(engine))[1],
}


@pytest.mark.parametrize("action", list(CHILDS))
@pytest.mark.parametrize("state", ["idle", "in transaction"])
def test_sqlalchemy(engine, action, state, caplog):
    import sqlalchemy

    forksafe.protect(engine)
    session = scalar(engine)

    def child():
        result = CHILDS[action](engine)
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        return result, len(errors)

    if state == "idle":
        own, errors = run_in_child(child)
        assert scalar(engine) == session
    else:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TEMP TABLE t (n int)"))
            own, errors = run_in_child(child)
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        assert scalar(engine) == session
        assert scalar(engine, "SELECT count(*) FROM t") == 1
    assert own != session
    assert errors == 0


def test_sqlalchemy_block_open_at_fork(engine, caplog):
    """The survivor leaves its `with engine.begin()` in the child: nothing reaches the parent's transaction."""
    import sqlalchemy

    forksafe.protect(engine)

    result = []

    def use_it():
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("CREATE TEMP TABLE t (n int)"))
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
            result.append(run_in_child(lambda: leave(connection)))
            count = connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar()
            connection.commit()
        return count

    def leave(connection):
        failed = None
        try:
            connection.execute(sqlalchemy.text("SELECT 1"))
        except Exception as error:
            failed = str(error)
        connection.close()
        gc.collect()
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        return failed, errors, scalar(engine) > 0

    assert use_it() == 1
    ((failed, errors, works),) = result
    assert "belongs to the parent" in failed
    assert (errors, works) == ([], True)


def test_sqlalchemy_protected_late(engine):
    """What was checked out before it was protected counts, too."""
    import sqlalchemy

    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TEMP TABLE t (n int)"))
        forksafe.protect(engine)
        run_in_child(lambda: (engine.pool.dispose(), gc.collect())[0])
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 1


def test_sqlalchemy_disposed_of(engine, caplog):
    """engine.dispose() makes a new pool; what is checked out stays with the one before."""
    import sqlalchemy

    forksafe.protect(engine)
    text = sqlalchemy.text

    def child():
        for connection in opened:
            with pytest.raises(sqlalchemy.exc.StatementError, match="belongs to the parent"):
                connection.execute(text("SELECT 1"))
            connection.close()
        opened.clear()
        gc.collect()
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        return errors, scalar(engine) > 0

    opened = []
    for n in range(3):  # two of these pools are never the engine's while a fork looks
        connection = engine.connect()
        connection.execute(text(f"CREATE TEMP TABLE t{n} (n int)"))
        opened.append(connection)
        engine.dispose()
    assert run_in_child(child) == ([], True)
    for n, connection in enumerate(opened):
        connection.execute(text(f"INSERT INTO t{n} VALUES (1)"))
        connection.commit()
        assert connection.execute(text(f"SELECT count(*) FROM t{n}")).scalar() == 1
        connection.close()
    engine.dispose()
    with engine.connect() as connection:
        assert run_in_child(lambda: scalar(engine)) > 0
    forksafe.unprotect(engine)
    engine.dispose()
    with engine.connect() as connection:
        assert not atfork.is_flagged(connection.connection.fileno())


def test_sqlalchemy_after_any_fork(engine, fork):
    forksafe.protect(engine)
    session = scalar(engine)

    def child():
        forksafe.generation()
        return scalar(engine)

    assert run_in_child(child, fork=fork) != session
    assert scalar(engine) == session


def test_sqlalchemy_under_multiprocessing(engine):
    forksafe.protect(engine)
    session = scalar(engine)
    _inherited.append(engine)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sessions = set(pool.map(_inherited_session, range(20)))
    _inherited.clear()
    assert session not in sessions
    assert scalar(engine) == session


_inherited = []


def _inherited_session(_):
    return scalar(_inherited[0])


def test_control_sqlalchemy(postgres):
    """Unprotected, a child that disposes of the engine ends the parent's session."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(postgres.url())
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(PID))
        run_in_child(lambda: connection.connection.close() or connection.close() or engine.dispose() or None)
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            connection.execute(sqlalchemy.text(PID))
    engine.dispose(close=False)


def test_sqlalchemy_in_memory_keeps_its_data():
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = forksafe.protect(sqlalchemy.create_engine("sqlite://"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (n int)"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (7)"))
    assert run_in_child(lambda: scalar(engine, "SELECT n FROM t")) == 7


def test_unprotect_sqlalchemy(postgres):
    from forksafe_core import atfork

    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = forksafe.protect(sqlalchemy.create_engine(postgres.url()))
    with engine.connect() as connection:
        number = connection.connection.dbapi_connection.fileno()
        assert atfork.is_flagged(number)
        forksafe.unprotect(engine)
        assert not atfork.is_flagged(number)
    engine.dispose()
    with engine.connect() as connection:
        assert not atfork.is_flagged(connection.connection.dbapi_connection.fileno())
    engine.dispose()


@pytest.mark.parametrize("kind", ["Session", "sessionmaker", "scoped_session"])
def test_sqlalchemy_sessions(postgres, kind):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from sqlalchemy import orm

    engine = sqlalchemy.create_engine(postgres.url())
    factory = orm.sessionmaker(bind=engine)
    protected = {"Session": factory, "sessionmaker": factory, "scoped_session": orm.scoped_session(factory)}[kind]
    forksafe.protect(protected() if kind == "Session" else protected)
    if kind == "Session":
        protected = forksafe.protect(factory())
    session = scalar(engine)
    assert run_in_child(lambda: scalar(engine)) != session
    assert scalar(engine) == session
    engine.dispose()
