"""resource(per_thread=True): one value for each thread."""

from __future__ import annotations

import sys
import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.server_sessions import Client
from support.threads import threads


@pytest.fixture
def db(session_server):
    db = forksafe.resource(lambda: Client(session_server.port), close=Client.close, per_thread=True)
    yield db
    db.close()


def test_each_thread_has_its_own(db):
    mine = db()
    others = []
    with threads(lambda: others.append((db(), db(), db.made)), 3):
        pass
    assert db() is mine
    assert len({id(first) for first, _, _ in others} | {id(mine)}) == 4
    assert all(first is second and made for first, second, made in others)


def test_cleaned_up_when_its_thread_ends(db):
    values = []
    cleaned_in = []
    each = forksafe.resource(
        lambda: object(), close=lambda _: cleaned_in.append(threading.get_ident()), per_thread=True
    )
    with threads(lambda: (values.append((db(), threading.get_ident())), each()), 1):
        pass
    (client, ident), *_ = values
    assert client.sock.fileno() == -1
    assert cleaned_in == [ident]  # in the thread itself, as sqlite3 wants it


def test_thread_local_no_clean_up(session_server):
    """The control."""
    kept = []
    local = threading.local()

    def use():
        local.client = Client(session_server.port)
        kept.append(local.client)

    with threads(use, 1):
        pass
    assert kept[0].sock.fileno() >= 0
    kept[0].close()


def test_empty_in_child(db, busy, fork):
    """For the thread that forked, too."""
    mine = db().session
    theirs = []
    other = busy(lambda: theirs.append(db()))

    def child():
        made = db.made
        return made, db().session, db.made

    made, session, made_then = run_in_child(child, fork=fork)
    assert (made, made_then) == (False, True) and session not in (mine, theirs[0].session)
    assert db().session == mine
    assert theirs[0].ask("alive").endswith("alive")
    other.end()


def test_value_of_vanished_thread(db, busy):
    """It is left alone."""
    theirs = []
    other = busy(lambda: theirs.append(db()))

    def child():
        db.close()
        return theirs[0].sock.fileno() >= 0

    assert run_in_child(child)
    assert theirs[0].ask("alive").endswith("alive")
    other.end()


def test_thread_local_shared(session_server):
    """The control: the survivor has its parent's."""
    local = threading.local()
    local.client = Client(session_server.port)
    mine = local.client.session
    assert run_in_child(lambda: local.client.session) == mine


def test_close_ends_those_of_all_threads(db, busy):
    theirs = []
    other = busy(lambda: theirs.append(db()))
    mine = db()
    db.close()
    assert mine.sock.fileno() == theirs[0].sock.fileno() == -1
    assert not db.made and db() is not mine
    other.end()


def test_close_raises_others_end(session_server, busy, monkeypatch):
    """Close raises and still ends the others."""
    ended, reported = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(str(unraisable.exc_value)))

    def clean_up(client):
        ended.append(client)
        client.close()
        raise ValueError(f"cannot end number {len(ended)}")

    db = forksafe.resource(lambda: Client(session_server.port), close=clean_up, per_thread=True)
    db()
    other = busy(lambda: db())
    with pytest.raises(ValueError, match="cannot end number 1"):
        db.close()
    assert len(ended) == 2 and reported == ["cannot end number 2"]
    other.end()


def test_on_fork_raise(session_server, fork):
    db = forksafe.resource(lambda: Client(session_server.port), per_thread=True, on_fork="raise")
    db()

    def refused():
        with pytest.raises(forksafe.InheritedResourceError):
            db()
        return True

    assert run_in_child(refused, fork=fork)


def test_generator(session_server):
    ended = []

    @forksafe.resource(per_thread=True)
    def db():
        yield Client(session_server.port)
        ended.append(threading.get_ident())

    with threads(lambda: db(), 2):
        pass
    assert len(ended) == 2 and threading.get_ident() not in ended
