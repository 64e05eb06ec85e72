"""@resource: the value's descriptors, found, named or missing."""

from __future__ import annotations

import socket
import sys
import threading
import warnings

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.forks import HANDLERS_RUN
from support.server_sessions import Client


class Hidden:
    """A connection that keeps its descriptor where nobody can see it."""

    def __init__(self, port):
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.send = lambda data: sock.send(data)
        self.fileno_of = lambda: sock.fileno()
        self.end = lambda: sock.close()

    def close(self):
        pass

    def __del__(self):
        self.end()


def test_not_found_warned_once(session_server):
    class Unknown(Hidden):
        pass

    def maker():
        return Unknown(session_server.port)

    with pytest.warns(forksafe.UnknownDescriptorsWarning, match=r"resource .*maker\(\).*Unknown.*fds=lambda") as caught:
        forksafe.resource(maker)()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forksafe.resource(maker)()  # of this type it has been said


def test_warning_as_error(session_server):
    """It leaves nothing behind."""

    class Unheard(Hidden):
        closed = 0

        def close(self):
            Unheard.closed += 1

    db = forksafe.resource(lambda: Unheard(session_server.port), close=lambda value: value.close())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(forksafe.UnknownDescriptorsWarning):
            db()
    assert not db.made and Unheard.closed == 1


def test_fds_says_where_they_are(session_server, fork, fork_name):
    class Told(Hidden):
        pass

    db = forksafe.resource(lambda: Told(session_server.port), fds=lambda value: value.fileno_of())
    value = db()

    def child():
        if fork_name not in HANDLERS_RUN:
            forksafe.generation()
        with pytest.raises(BrokenPipeError):
            value.send(b"x")
        return db() is not value

    assert run_in_child(child, fork=fork)
    assert forksafe.resource(lambda: Told(session_server.port), fds=lambda value: [value.fileno_of()])() is not None
    with pytest.raises(TypeError, match="fds= gives descriptors"):
        forksafe.resource(lambda: Told(session_server.port), fds=lambda value: 1.5)()


def test_fds_none_says_that_there_are_none(session_server):
    class Nothing(Hidden):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forksafe.resource(lambda: Nothing(session_server.port), fds=())()


def test_no_connection_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in (dict, int, list, threading.Lock, lambda: {"a": [1, 2]}, object):
            assert forksafe.resource(make)() is not None


def test_socket_opened_later(session_server, fork_name, fork):
    """As requests.Session and redis.Redis do: what they have is looked for again before the fork."""

    class Late:
        client = None

    late = forksafe.resource(Late)
    late().client = Client(session_server.port)
    mine = late().client.session
    inherited = late()

    def child():
        if fork_name not in HANDLERS_RUN:
            forksafe.generation()
        try:
            inherited.client.ask()
        except OSError:
            return "dead"
        return "shared"

    # No hook runs before a fork made by C; there the connection is found at the next one that Python makes.
    assert run_in_child(child, fork=fork) == ("dead" if fork_name == "os.fork" else "shared")
    if fork_name != "os.fork":
        assert run_in_child(child) == "dead"
        assert run_in_child(child, fork=fork) == "dead"
    if fork_name == "os.fork":
        assert late().client.session == mine


def test_fds_raise_at_fork(session_server, monkeypatch):
    """The fork goes on."""
    reported, calls = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(str(unraisable.exc_value)))

    def fds(client):
        calls.append(client)
        if len(calls) > 1:
            raise ValueError("not now")
        return client.sock

    def dead():
        with pytest.raises(OSError, match=r"Broken pipe|closed this session"):
            client.ask()
        return True

    db = forksafe.resource(lambda: Client(session_server.port), close=Client.close, fds=lambda client: [fds(client)])
    client = db()
    assert run_in_child(dead)
    assert reported == ["not now"]
    db.close()


def test_closed_file_is_let_go(tmp_path):
    """A regular file is let go once it is closed."""
    path = tmp_path / "data"
    path.write_text("text")
    opened = forksafe.resource(lambda: path.open(), close=lambda file: file.close())
    number = opened().fileno()
    opened.close()
    with path.open() as file:
        assert file.fileno() == number
        assert run_in_child(file.read) == "text"
