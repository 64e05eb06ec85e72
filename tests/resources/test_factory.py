"""@resource: threads that race, makers that fail, ask for their own value or fork, and generators."""

from __future__ import annotations

import functools
import os
import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.server_sessions import Client
from support.threads import threads


def test_threads_that_race_make_one(connect):
    made = []
    started = threading.Barrier(8)

    def maker():
        made.append(connect())
        return made[-1]

    db = forksafe.resource(maker)
    got = []

    def ask():
        started.wait(10)
        got.append(db())

    with threads(ask, 8):
        pass
    assert len(made) == 1 and len(got) == 8 and set(map(id, got)) == {id(made[0])}


def test_while_one_makes_the_others_wait(connect):
    inside, go, made = threading.Event(), threading.Event(), []

    def maker():
        made.append(1)
        inside.set()
        assert go.wait(10)
        return connect()

    db = forksafe.resource(maker)
    got = []
    with threads(lambda: got.append(db()), 4):
        assert inside.wait(10)
        go.set()
    assert made == [1] and len(set(map(id, got))) == 1


def test_control_lru_cache_makes_one_for_each(connect):
    both = threading.Barrier(2)

    @functools.lru_cache
    def cached():
        both.wait(10)  # reached by two threads, since nothing keeps the second out
        return connect()

    got = []
    with threads(lambda: got.append(cached()), 2):
        pass
    assert got[0] is not got[1]


def test_threads_of_a_child_race_too(db):
    mine = db().session

    def child():
        got = []
        with threads(lambda: got.append(db()), 8):
            pass
        return len(got), len(set(map(id, got))), got[0].session

    asked, values, theirs = run_in_child(child)
    assert (asked, values) == (8, 1) and theirs != mine


def test_an_error_is_not_kept(connect):
    errors = [ValueError("first"), OSError("second")]

    def maker():
        if errors:
            raise errors.pop(0)
        return connect()

    db = forksafe.resource(maker)
    with pytest.raises(ValueError, match="first"):
        db()
    assert not db.made
    with pytest.raises(OSError, match="second"):
        db()
    assert db().ask().endswith("who")


def test_maker_raises_next_one_tries(connect):
    """A thread that waited tries after another's error."""
    inside, go = threading.Event(), threading.Event()
    calls = []

    def maker():
        calls.append(threading.current_thread())
        if len(calls) == 1:
            inside.set()
            assert go.wait(10)
            raise ValueError("the first fails")
        return connect()

    db = forksafe.resource(maker)
    results = []

    def ask():
        try:
            results.append(db())
        except ValueError as error:
            results.append(error)

    with threads(ask, 1):
        assert inside.wait(10)
        with threads(ask, 1):
            go.set()
    assert [type(each) for each in results] in ([ValueError, Client], [Client, ValueError])
    assert calls[0] is not calls[1]


def test_a_maker_that_asks_for_its_own_value(connect):
    def maker():
        return db()

    db = forksafe.resource(maker)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"maker\(\) asks for its own value while it makes it"):
            db()
    each = forksafe.resource(lambda: each(), per_thread=True)
    with pytest.raises(RuntimeError, match="asks for its own value"):
        each()


def test_a_fork_while_another_thread_makes(connect, busy, fork):
    inside, go = threading.Event(), threading.Event()
    parent = os.getpid()

    def maker():
        client = connect()
        if os.getpid() == parent:
            inside.set()
            assert go.wait(30)
        return client

    db = forksafe.resource(maker, close=Client.close)
    with threads(lambda: db(), 1):
        try:
            assert inside.wait(10)
            theirs = run_in_child(lambda: (db().session, db.made), fork=fork)
        finally:
            go.set()
    assert theirs[1] and db().session != theirs[0]
    db.close()


def test_a_maker_that_forks(connect, fork):
    """The child that comes out of the maker may not have what was begun in the parent."""

    def comes_out():
        pid = -1

        def maker():
            nonlocal pid
            client = connect()
            client.ask()
            pid = fork()
            return client

        db = forksafe.resource(maker, close=Client.close)
        try:
            client = db()
        except BaseException as error:
            if pid == 0:
                ok = isinstance(error, forksafe.InheritedResourceError) and "forked while it made" in str(error)
                os._exit(0 if ok and not db.made else 3)
            raise
        if pid == 0:
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.ask("alive").endswith("alive")
        db.close()
        return True

    assert run_in_child(comes_out, 20)  # in a child, so that one that escapes is not a second test session


def test_maker_forks(connect, fork):
    """The child may ask for a value of its own."""
    parent = os.getpid()
    theirs = []

    def maker():
        if os.getpid() == parent and not theirs:
            theirs.append(run_in_child(lambda: db().session, fork=fork))
        return connect()

    db = forksafe.resource(maker, close=Client.close)
    assert db().session != theirs[0]
    db.close()


def test_generator(connect, fork):
    ended = []

    @forksafe.resource
    def db():
        client = connect()
        try:
            yield client
        finally:
            ended.append(os.getpid())
            client.close()

    mine = db().session
    assert run_in_child(lambda: (db().session != mine, ended), fork=fork) == (True, [])
    assert db().session == mine
    db.close()
    assert ended == [os.getpid()]


def test_generators_that_yield_never_or_twice():
    @forksafe.resource
    def never():
        return
        yield

    @forksafe.resource
    def twice():
        yield 1
        yield 2

    with pytest.raises(RuntimeError, match="yielded nothing"):
        never()
    assert twice() == 1
    with pytest.raises(RuntimeError, match="yielded a second time"):
        twice.close()
    assert not twice.made
