"""resource(on_fork="transfer"): the child has the value from now on, and the parent's copy dies."""

from __future__ import annotations

import gc
import os
import sys

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.forks import FORKS
from support.programs import TESTS, python, script, succeeds
from support.resources import printed
from support.server_sessions import Client


@pytest.fixture
def db(session_server):
    db = forksafe.resource(lambda: Client(session_server.port), close=Client.close, on_fork="transfer")
    yield db
    db.close()


def test_child_owns_value(db):
    """The parent's copy is dead."""
    client = db()
    mine = client.session
    assert run_in_child(lambda: (db() is client, db().session)) == (True, mine)
    with pytest.raises(OSError, match=r"Broken pipe|closed this session"):
        client.ask()
    assert client.sock.fileno() >= 0  # and it stays taken: nobody's later close() hits another file
    assert not db.made
    assert db().session not in (mine, None)


def test_next_child_gets_new_value(db):
    """The next child has what was made since."""
    sessions = []
    for _ in range(3):
        sessions.append(db().session)
        assert run_in_child(lambda: db().session) == sessions[-1]
    assert len(set(sessions)) == 3


def test_from_child_to_grandchild(db):
    mine = db().session

    def child():
        ours = db().session
        theirs = run_in_child(lambda: db().session)
        return ours, theirs, db.made, db().session

    ours, theirs, made, anew = run_in_child(child, 20)
    assert ours == theirs == mine and not made and anew != mine


@pytest.mark.parametrize("how", [how for how in FORKS if how != "os.fork"])
def test_a_fork_made_by_c_transfers_nothing(db, how):
    mine = db().session
    assert run_in_child(lambda: db().session, fork=FORKS[how]) != mine
    assert db().session == mine


def test_a_fork_in_a_hook_is_the_next_fork(tmp_path, session_server):
    """In an interpreter of its own: concurrent.futures holds a lock around every fork, so one in a hook would hang."""
    text = """
        from forksafe.testing import run_in_child
        from support.server_sessions import Client
        db = forksafe.resource(lambda: Client(int(sys.argv[1])), on_fork="transfer")
        mine = db().session
        inner = []
        registration = forksafe.register_at_fork(before=lambda: inner.append(run_in_child(lambda: db().session)))
        theirs = run_in_child(lambda: db().session)
        registration.unregister()
        say(inner == [mine], theirs != mine, db.made, db().session not in (mine, theirs))
    """
    assert printed(tmp_path, text, session_server.port) == ["True True False True"]


def test_not_made_yet(db):
    assert run_in_child(lambda: db().session) != db().session


def test_discard(session_server):
    """The control: the value stays with the parent."""
    db = forksafe.resource(lambda: Client(session_server.port), close=Client.close)
    mine = db().session
    assert run_in_child(lambda: db().session) != mine
    assert db().session == mine
    db.close()


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
def test_only_tombstones_left():
    def count():
        return len(os.listdir("/proc/self/fd"))

    null = forksafe.resource(lambda: open(os.devnull), close=lambda file: file.close(), on_fork="transfer")
    gc.collect()  # what other tests have left open
    usual = run_in_child(count) - count()  # what run_in_child() has there, and what others close there
    null()
    before = count()
    assert run_in_child(count) == before + usual
    for _ in range(5):
        null()
        run_in_child(lambda: None)
    assert count() == before + 5


def test_a_fork_that_fails_changes_nothing(tmp_path, session_server):
    text = """
        import resource
        from support.server_sessions import Client
        db = forksafe.resource(lambda: Client(int(sys.argv[1])), close=Client.close, on_fork="transfer")
        mine = db().session
        if os.geteuid() == 0:
            os.setuid(65534)  # root has no limit
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        try:
            pid = os.fork()
        except OSError:  # before 3.11 the hooks make it lose its errno
            from forksafe_core import atfork
            say(db().session == mine, atfork.is_flagged(db().sock.fileno()))
        else:
            if not pid:
                os._exit(0)
            say("forked")
    """
    result = printed(tmp_path, text, session_server.port)
    if result == ["forked"]:
        pytest.skip("no fork can be made to fail here")
    assert result == ["True True"]


def test_a_child_that_dies_before_it_has_it(tmp_path, session_server):
    program = script(
        tmp_path / "program.py",
        f"""
        import os, sys
        os.register_at_fork(after_in_child=lambda: die and os._exit(0))  # before forksafe's own
        die = False
        sys.path.insert(0, {TESTS!r})
        import forksafe
        from support.server_sessions import Client
        db = forksafe.resource(lambda: Client({session_server.port}), close=Client.close, on_fork="transfer")
        mine = db().session
        die = True
        os.waitpid(os.fork(), 0)
        print(db().session == mine)
    """,
    )
    assert succeeds(python(program)) == "True\n"


CLEAN_UP = """
    db = forksafe.resource(lambda: "value", close=lambda value: say("end", os.getpid() == parent), on_fork="transfer")
    parent = os.getpid()
    db()
"""


def test_clean_up_belongs_to_the_child(tmp_path):
    text = (
        CLEAN_UP
        + """
    pid = os.fork()
    if pid:
        wait(pid)
        say("exit")
    """
    )
    assert printed(tmp_path, text) == ["end False", "exit"]


def test_clean_up_in_a_multiprocessing_child(tmp_path):
    text = (
        CLEAN_UP
        + """
    process = multiprocessing.get_context("fork").Process(target=db)
    process.start()
    process.join(20)
    say("joined", process.exitcode)
    """
    )
    assert printed(tmp_path, text) == ["end False", "joined 0"]


def test_a_daemon_forks_twice(tmp_path, session_server):
    text = """
        from support.server_sessions import Client
        db = forksafe.resource(lambda: Client(int(sys.argv[1])), on_fork="transfer")
        mine = db().session
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.write(write, b"same" if db().session == mine else b"other")
            os._exit(0)
        wait(pid)
        os.close(write)
        say(os.read(read, 10).decode())
    """
    assert printed(tmp_path, text, session_server.port) == ["same"]


def test_child_too_late(db, monkeypatch):
    """The parent gives up at once; the child, held back until then, finds that nobody listens."""
    from forksafe.resources import ownership as owned

    mine = db().session
    monkeypatch.setattr(owned, "TRANSFER_TIMEOUT", 0)
    read, write = os.pipe()
    original = owned._take_over

    def held_back(generation):
        os.read(read, 1)
        return original(generation)

    monkeypatch.setattr(owned, "_take_over", held_back)
    pid = os.fork()
    if not pid:
        try:
            os._exit(0 if db().session != mine else 3)
        finally:
            os._exit(4)
    os.write(write, b"!")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert db().session == mine
    os.close(read)
    os.close(write)
