"""@resource: one value for each process, made at first use; a child never touches its parent's."""

from __future__ import annotations

import functools
import gc
import pickle
import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.forks import HANDLERS_RUN
from support.server_sessions import Client
from support.threads import threads


def test_made_at_first_use_and_once(db):
    assert not db.made
    value = db()
    assert db.made and db() is value and db() is value


def test_a_child_makes_its_own(db, fork):
    mine = db().session

    def child():
        first = db().session
        return first, db().session, db.made

    first, again, made = run_in_child(child, fork=fork)
    assert first == again != mine and made
    assert db().session == mine


def test_control_a_plain_global_is_shared(connect, fork):
    client = connect()
    mine = client.session
    assert run_in_child(lambda: client.session, fork=fork) == mine  # the child talks in its parent's session
    client.close()


def test_value_collected_in_child(db, fork):
    """The parent's session goes on."""
    mine = db().session
    kept = [db()]

    def child():
        db()
        kept.clear()
        gc.collect()
        db.close()
        return True

    assert run_in_child(child, fork=fork)
    assert db().session == mine


def test_plain_value_collected_in_child(connect, fork):
    """The control: it ends the parent's session."""
    kept = [connect()]

    def child():
        kept.clear()
        gc.collect()
        return True

    assert run_in_child(child, fork=fork)
    with pytest.raises(OSError):  # noqa: PT011  # reset, or broken pipe, or end of file
        kept[0].ask()


def test_lru_cache_shared(connect):
    """The control: the child gets its parent's connection."""
    cached = functools.lru_cache(connect)
    mine = cached().session
    assert run_in_child(lambda: cached().session) == mine


def test_inherited_dead_before_python(db, fork, fork_name):
    """What the child inherits is dead before any Python code runs."""
    client = db()

    def child():
        if fork_name not in HANDLERS_RUN:
            forksafe.generation()
        with pytest.raises(OSError, match=r"Broken pipe|closed this session"):
            client.ask()
        return client.sock.recv(10), forksafe.generation()

    assert run_in_child(child, fork=fork) == (b"", forksafe.generation() + 1)
    assert client.ask("still") == f"{client.session} still"


def test_nested_forks(db):
    mine = db().session

    def child():
        ours = db().session
        theirs = run_in_child(lambda: (run_in_child(lambda: db().session), db().session))
        return ours, *theirs, db().session

    ours, grandchild, great, again = run_in_child(child, 30)
    assert len({mine, ours, grandchild, great}) == 4 and again == ours
    assert db().session == mine


def test_not_made_before_the_fork(db, fork):
    theirs = run_in_child(lambda: db().session, fork=fork)
    assert not db.made
    assert db().session != theirs


def test_close_then_call(db):
    """The next call makes another value."""
    first = db()
    number = first.session
    db.close()
    assert first.sock.fileno() == -1 and not db.made
    db.close()
    assert db().session != number


def test_close_raises_what_the_clean_up_raises(connect):
    def refuse(client):
        client.close()
        raise ValueError("cannot")

    db = forksafe.resource(connect, close=refuse)
    first = db()
    with pytest.raises(ValueError, match="cannot"):
        db.close()
    assert not db.made
    assert db() is not first
    with pytest.raises(ValueError, match="cannot"):
        db.close()


def test_kinds_of_makers(session_server):
    """Classes, partials and methods."""

    class Owner:
        def __init__(self):
            self.db = forksafe.resource(self.connect)

        def connect(self):
            return Client(session_server.port)

    assert forksafe.resource(functools.partial(Client, session_server.port))().ask() != ""
    assert Owner().db().ask() != ""
    assert forksafe.resource(dict)() == {}

    class Factory:
        """In a class body a maker without arguments is as good as in a module."""

        db = forksafe.resource(functools.partial(Client, session_server.port))

    assert Factory().db() is Factory.db()


def named():
    """Makes a number."""
    return 3


decorated = forksafe.resource(named)
decorated.__qualname__ = "decorated"


def test_looks_like_the_function():
    db = forksafe.resource(named)
    assert (db.__name__, db.__doc__, db.__wrapped__, db.__module__) == ("named", "Makes a number.", named, __name__)
    assert repr(db) == "<forksafe.resource named(), not made>"
    assert db() == 3 and repr(db) == "<forksafe.resource named(), made>"
    assert isinstance(db, forksafe.Resource)


def test_pickled_by_name_as_functions_are():
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(forksafe.resource(named))


def test_bad_input(connect):
    async def later():
        return connect()

    async def later_generator():
        yield connect()

    def generator():
        yield connect()

    for maker in (later, later_generator, functools.partial(later)):
        with pytest.raises(TypeError, match="this one is async"):
            forksafe.resource(maker)
    with pytest.raises(TypeError, match="returned a coroutine"):
        forksafe.resource(lambda: later())()
    with pytest.raises(TypeError, match="takes a callable that makes a value, not 3"):
        forksafe.resource(3)
    with pytest.raises(TypeError, match=r"without required arguments \(missing a required argument: 'self'\).*partial"):

        class Owner:
            @forksafe.resource
            def db(self):
                return connect()

    with pytest.raises(TypeError, match="takes a callable that is given the value, not 3"):
        forksafe.resource(connect, close=3)
    with pytest.raises(TypeError, match="clean up after its yield"):
        forksafe.resource(generator, close=print)
    with pytest.raises(TypeError, match=r"fds=.*not 3"):
        forksafe.resource(connect, fds=3)
    with pytest.raises(ValueError, match="'discard', 'transfer' or 'raise', not 'keep'"):
        forksafe.resource(connect, on_fork="keep")
    with pytest.raises(ValueError, match="cannot transfer"):
        forksafe.resource(connect, on_fork="transfer", per_thread=True)


def test_on_fork_raise(connect, fork):
    db = forksafe.resource(connect, close=Client.close, on_fork="raise")
    client = db()
    mine = client.session

    def refused():
        with pytest.raises(forksafe.InheritedResourceError):
            db()
        return True

    def child():
        for _ in range(2):
            with pytest.raises(forksafe.InheritedResourceError, match="belongs to the process that made it"):
                db()
        with pytest.raises(OSError, match=r"Broken pipe|closed this session"):
            client.ask()
        return run_in_child(refused)

    assert run_in_child(child, 20, fork=fork)
    assert db().session == mine
    db.close()


def test_on_fork_raise_unused(connect, fork):
    """Nothing was inherited, so nothing is raised."""
    db = forksafe.resource(connect, on_fork="raise")
    assert run_in_child(lambda: db().ask() != "", fork=fork)


def test_dropped(connect):
    """Dropping a resource cleans its value up."""
    db = forksafe.resource(connect, close=Client.close)
    client = db()
    del db
    gc.collect()
    assert client.sock.fileno() == -1


def test_dropped_in_child(connect, fork):
    """The parent's value is not cleaned up."""
    holder = [forksafe.resource(connect, close=Client.close)]
    client = holder[0]()

    def child():
        holder.clear()
        gc.collect()
        return client.sock.fileno() >= 0

    assert run_in_child(child, fork=fork)
    assert client.ask("alive").endswith("alive")


def test_made_anew_in_clean_up(connect):
    made = []

    def maker():
        made.append(connect())
        return made[-1]

    def clean_up(client):
        client.close()
        if len(made) == 1:
            db()

    db = forksafe.resource(maker, close=clean_up)
    db()
    db.close()
    assert db.made and db() is made[1]
    db.close()
    assert not db.made


def test_a_fork_during_the_clean_up(connect, busy, fork):
    inside, go = threading.Event(), threading.Event()

    def clean_up(client):
        inside.set()
        assert go.wait(30)
        client.close()

    db = forksafe.resource(connect, close=clean_up)
    client = db()
    with threads(db.close, 1):
        try:
            assert inside.wait(10)
            assert run_in_child(lambda: (db().session > 0, client.sock.fileno() >= 0), fork=fork) == (True, True)
            assert client.ask("alive").endswith("alive")
        finally:
            go.set()
    assert not db.made
