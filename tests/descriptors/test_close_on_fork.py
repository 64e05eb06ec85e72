"""close_on_fork(): tombstones in children, over the very file that was flagged, whatever way the fork was made."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import resource
import select
import signal
import socket
import sys
import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from forksafe_core import atfork
from support.descriptors import error_of, use_socket
from support.forks import FORKS


def test_socket(pair, fork):
    a, b = pair
    assert forksafe.close_on_fork(a) is a

    def child():
        forksafe.generation()  # a fork without handlers is noticed here
        return *use_socket(a), select.select([a], [], [], 5)[0] == [a]

    assert run_in_child(child, fork=fork) == ("EPIPE", b"", True)
    a.send(b"from the parent")
    assert b.recv(99) == b"from the parent"


def test_control_an_unflagged_socket_is_shared(pair, fork):
    a, b = pair
    assert run_in_child(lambda: a.send(b"from the child"), fork=fork) == 14
    assert b.recv(99) == b"from the child"


def test_a_fork_with_handlers_needs_no_call(pair):
    """Before any Python: the first thing that a child of a C fork does finds the tombstone."""
    a, _ = pair
    forksafe.close_on_fork(a)
    for name in ("os.fork", "C fork"):
        if name in FORKS:
            assert run_in_child(lambda: use_socket(a), fork=FORKS[name]) == ("EPIPE", b"")


def test_no_sigpipe(pair):
    a, _ = pair
    forksafe.close_on_fork(a)

    def child():
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        return use_socket(a), error_of(lambda: os.write(a.fileno(), b"x"))

    assert run_in_child(child) == (("EPIPE", b""), "EPIPE")


def test_pipe():
    reader, writer = os.pipe()
    forksafe.close_on_fork(writer)
    forksafe.close_on_fork(reader)
    os.write(writer, b"parent's")
    assert run_in_child(lambda: (error_of(lambda: os.read(reader, 9)), error_of(lambda: os.write(writer, b"x")))) == (
        "EBADF",
        "EBADF",
    )
    assert os.read(reader, 99) == b"parent's"
    os.close(reader)
    os.close(writer)


def test_control_a_pipe_is_shared():
    reader, writer = os.pipe()
    os.write(writer, b"parent's")
    assert run_in_child(lambda: os.read(reader, 99)) == b"parent's"
    os.close(reader)
    os.close(writer)


def test_file_its_flock_and_offset(tmp_path):
    """A child that unlocks or seeks an inherited file does it for the parent too; a tombstone cannot."""
    with open(tmp_path / "file", "wb+", buffering=0) as file, open(tmp_path / "file", "rb") as other:
        file.write(b"0123456789")
        fcntl.flock(file, fcntl.LOCK_EX)

        def child():
            return error_of(lambda: fcntl.flock(file, fcntl.LOCK_UN)), error_of(lambda: file.write(b"x"))

        forksafe.close_on_fork(file)
        assert run_in_child(child) == ("EBADF", "EBADF")
        assert error_of(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) == "EAGAIN"
        assert file.tell() == 10
        forksafe.keep_on_fork(file)
        assert run_in_child(child) == (None, 1)
        assert error_of(lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)) is None
        assert file.tell() == 11


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll on this platform")
def test_epoll(pair):
    a, b = pair
    with select.epoll() as epoll:
        epoll.register(a, select.EPOLLIN)

        def child():
            return error_of(lambda: epoll.unregister(a))

        forksafe.close_on_fork(epoll)
        assert run_in_child(child) == "EBADF"
        b.send(b"x")
        assert epoll.poll(5) == [(a.fileno(), select.EPOLLIN)]
        forksafe.keep_on_fork(epoll)
        assert run_in_child(child) is None
        assert epoll.poll(0) == []  # the control: the child took the parent's events away


def test_the_number_stays_taken(pair):
    a, _ = pair
    forksafe.close_on_fork(a)

    def child():
        before = os.fstat(a.fileno()).st_ino
        new = os.open(os.devnull, os.O_RDONLY)
        return new != a.fileno(), before == os.fstat(a.fileno()).st_ino, os.get_inheritable(a.fileno())

    assert run_in_child(child) == (True, True, False)


def test_many_ints():
    limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 30_000)

    def child():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        descriptors = []
        with contextlib.suppress(OSError):
            while len(descriptors) < limit - 100:
                descriptors += [each.detach() for each in socket.socketpair()]
        flagged = descriptors[::2]
        for descriptor in flagged:
            forksafe.close_on_fork(descriptor)
        assert atfork.flagged() == sorted(flagged)

        def dead(descriptor):
            return socket.socket(fileno=os.dup(descriptor)).recv(1, socket.MSG_DONTWAIT) == b""

        def grandchild():
            wrong = [each for each in flagged if not dead(each)]
            alive = [each for each in descriptors[1::2] if os.fstat(each).st_ino in inodes[each]]
            return len(wrong), len(alive), atfork.flagged()

        inodes = {each: [os.fstat(each).st_ino] for each in descriptors[1::2]}
        return len(descriptors), run_in_child(grandchild, 30)

    count, (wrong, alive, left) = run_in_child(child, 60)
    assert count > 900
    assert (wrong, alive, left) == (0, count // 2, [])


def test_grandchildren(fork):
    """What they flag themselves counts, too."""
    a, b = socket.socketpair()
    forksafe.close_on_fork(a)

    def child():
        forksafe.generation()
        c, d = socket.socketpair()
        forksafe.close_on_fork(c)

        def grandchild():
            forksafe.generation()
            return use_socket(a), use_socket(c), atfork.flagged()

        result = run_in_child(grandchild, fork=fork)
        c.send(b"x")
        return result, d.recv(9)

    dead = ("EPIPE", b"")
    assert run_in_child(child, fork=fork) == ((dead, dead, []), b"x")
    a.close()
    b.close()


def test_worker_thread_forks(pair):
    a, _ = pair
    forksafe.close_on_fork(a)
    got = []
    thread = threading.Thread(target=lambda: got.append(run_in_child(lambda: use_socket(a))))
    thread.start()
    thread.join(20)
    assert got == [("EPIPE", b"")]


def test_multiprocessing(pair):
    a, _ = pair
    forksafe.close_on_fork(a)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=lambda: sys.exit(use_socket(a) != ("EPIPE", b"")))
    process.start()
    process.join(10)
    assert process.exitcode == 0


def test_forks_among_flagging_threads():
    """Threads open, flag, and close while another forks: in no child is anything dead but what was flagged."""
    keep, peer = socket.socketpair()
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            pairs = [socket.socketpair() for _ in range(5)]
            for a, _ in pairs:
                forksafe.close_on_fork(a)
            for a, b in pairs:
                a.close()
                b.close()

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        results = [run_in_child(lambda: keep.send(b"x")) for _ in range(50)]
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    assert results == [1] * 50
    assert peer.recv(99) == b"x" * 50
    keep.close()
    peer.close()


def test_keep_on_fork(pair):
    a, b = pair
    forksafe.close_on_fork(a)
    assert forksafe.keep_on_fork(a) is a
    forksafe.keep_on_fork(a)
    assert run_in_child(lambda: a.send(b"x")) == 1
    assert b.recv(9) == b"x"


def test_decorator():
    connect = forksafe.close_on_fork(lambda: socket.socketpair()[0])
    a = connect()
    assert atfork.is_flagged(a.fileno())
    assert run_in_child(lambda: use_socket(a)[1]) == b""
    a.close()

    @forksafe.close_on_fork
    def opened():
        """Opens."""
        return os.open(os.devnull, os.O_RDONLY)

    assert opened.__doc__ == "Opens."
    number = opened()
    assert atfork.is_flagged(number)
    forksafe.keep_on_fork(number)
    os.close(number)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (None, TypeError, "takes a descriptor's number"),
        ("3", TypeError, "takes a descriptor's number"),
        (True, TypeError, "takes a descriptor's number"),
        (1.5, TypeError, "takes a descriptor's number"),
        (socket.socket, TypeError, "takes a descriptor's number"),
        (-1, ValueError, "there is no descriptor -1"),
        (__import__("io").StringIO(), ValueError, "this StringIO has none"),
        (type("Odd", (), {"fileno": lambda self: "x"})(), TypeError, "which is no descriptor"),
    ],
)
def test_bad_input(bad, error, message):
    before = atfork.flagged()
    for function in (forksafe.close_on_fork, forksafe.keep_on_fork):
        with pytest.raises(error, match=message):
            function(bad)
    assert atfork.flagged() == before


def test_bad_input_closed():
    a, b = socket.socketpair()
    a.close()
    with pytest.raises(ValueError, match="this socket is closed"):
        forksafe.close_on_fork(a)
    with open(os.devnull) as file:
        pass
    with pytest.raises(ValueError, match="has none: I/O operation on closed file"):
        forksafe.close_on_fork(file)
    for number in (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1, 2**31 - 1):
        with pytest.raises(OSError, match="Bad file descriptor"):
            forksafe.close_on_fork(number)
    with pytest.raises(OverflowError):
        forksafe.close_on_fork(2**40)
    b.close()
