"""close_on_fork(): tombstones in children, over the very file that was flagged, whatever way the fork was made."""

from __future__ import annotations

import _thread
import contextlib
import errno
import fcntl
import multiprocessing
import os
import resource
import select
import signal
import socket
import sys
import tempfile
import threading

import pytest
from conftest import FORKS, SYS_CLONE, _libc, python, script, succeeds

import forksafe
from forksafe import testing
from forksafe.testing import run_in_child
from forksafe_core import atfork


@pytest.fixture
def pair():
    a, b = socket.socketpair()
    a.settimeout(5)
    b.settimeout(5)
    yield a, b
    a.close()
    b.close()


def error_of(call):
    """The errno of what call() raises, or what it returns."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno]


def use_socket(a):
    return error_of(lambda: a.send(b"from the child")), error_of(lambda: a.recv(9))


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


def test_grandchildren_and_what_they_flag_themselves(fork):
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


def test_forks_while_other_threads_flag_and_close():
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


# The flag belongs to the file, not to the number.


def reuse_pair(closing, number):
    """A new pair, the first of which gets the number of a socket that is closed."""
    closing.close()
    c, d = socket.socketpair()
    if c.fileno() != number:
        c, d = d, c
    assert c.fileno() == number
    return c, d


def test_a_socket_number_that_was_reused_is_left_alone(fork):
    a, b = socket.socketpair()
    number = a.fileno()
    forksafe.close_on_fork(number)
    b.close()
    c, d = reuse_pair(a, number)
    assert not atfork.is_flagged(number)
    assert run_in_child(lambda: (forksafe.generation(), os.write(number, b"x"))[1], fork=fork) == 1
    assert d.recv(9) == b"x"
    c.close()
    d.close()


def test_a_file_that_was_closed_and_opened_again_is_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    file = open(path, "rb")
    number = file.fileno()
    forksafe.close_on_fork(file)
    file.close()
    with open(path, "rb", buffering=0) as again:
        assert again.fileno() == number
        assert run_in_child(lambda: again.read(3)) == b"con"


def test_so_is_an_int_whose_file_was_opened_again(tmp_path, fork):
    """Same number, same device, same inode: it is another open file all the same."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    number = os.open(path, os.O_RDONLY)
    forksafe.close_on_fork(number)
    os.close(number)
    assert os.open(path, os.O_RDONLY) == number
    assert run_in_child(lambda: (forksafe.generation(), os.read(number, 3)), fork=fork)[1] == b"con"
    os.close(number)


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="no epoll on this platform")
def test_so_is_an_epoll_that_took_anothers_number():
    first = select.epoll()
    number = first.fileno()
    forksafe.close_on_fork(first)
    first.close()
    with select.epoll() as second:
        assert second.fileno() == number
        assert run_in_child(lambda: second.poll(0)) == []


def test_a_file_with_a_signal_of_its_own(tmp_path):
    """The mark is the signal for O_ASYNC: one that the program chose, before or after, is let be."""
    for order in ("before", "after"):
        with open(tmp_path / "file", "wb", buffering=0) as file:
            if order == "after":
                forksafe.close_on_fork(file)
            fcntl.fcntl(file, F_SETSIG, signal.SIGUSR1)
            if order == "before":
                forksafe.close_on_fork(file)
            assert fcntl.fcntl(file, F_GETSIG) == signal.SIGUSR1
            assert run_in_child(lambda: error_of(lambda: file.write(b"x"))) == "EBADF"
            number = file.fileno()
        with open(tmp_path / "file", "wb", buffering=0) as again:
            assert again.fileno() == number
            assert run_in_child(lambda: again.write(b"x")) == 1


F_SETSIG, F_GETSIG = 10, 11


def test_o_async_still_means_sigio(pair):
    a, b = pair
    forksafe.close_on_fork(a)
    caught = []
    before = signal.signal(signal.SIGIO, lambda number, _: caught.append(number))
    try:
        fcntl.fcntl(a, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)
        b.send(b"x")
        assert a.recv(9) == b"x"
    finally:
        signal.signal(signal.SIGIO, before)
    assert set(caught) == {signal.SIGIO}


def test_a_file_that_is_collected_ends_its_flag(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content")
    file = open(path, "rb")
    number = file.fileno()
    forksafe.close_on_fork(file)
    assert atfork.is_flagged(number)
    with pytest.warns(ResourceWarning):
        file = None
    assert file is None
    again = os.open(path, os.O_RDONLY)
    assert again == number
    assert not atfork.is_flagged(number)
    os.close(again)


def test_flagged_again_after_reuse(pair):
    a, _ = pair
    number = a.fileno()
    forksafe.close_on_fork(number)
    c, d = reuse_pair(a, number)
    forksafe.close_on_fork(c)
    assert run_in_child(lambda: use_socket(c)) == ("EPIPE", b"")
    c.close()
    d.close()


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


# Where there is no room for tombstones.


@pytest.mark.parametrize("raisable", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_free_number_in_the_child(raisable, count):
    """EMFILE: the limit is raised for a moment, or a flagged descriptor gives its number; none stays shared."""

    def child():
        pairs = [socket.socketpair() for _ in range(count)]
        files = [tempfile.TemporaryFile(buffering=0) for _ in range(count)]
        for x in [a for a, _ in pairs] + files:
            forksafe.close_on_fork(x)

        def grandchild():
            numbers = [use_number(a.fileno()) for a, _ in pairs] + [use_number(file.fileno()) for file in files]
            return numbers, resource.getrlimit(resource.RLIMIT_NOFILE)[0]

        def use_number(number):
            return error_of(lambda: os.write(number, b"x"))

        lines = os.pipe()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard if raisable else 100))
        with contextlib.suppress(OSError):
            while True:
                os.dup(0)
        pid = os.fork()
        if pid == 0:
            os.write(lines[1], repr(grandchild()).encode())
            os._exit(0)
        assert testing._reap(pid, 10) == 0
        told = eval(os.read(lines[0], 9999))
        for a, b in pairs:
            a.send(b"y")
            assert b.recv(9) == b"y"
        return told

    results, limit = run_in_child(child, 30)
    assert limit == 100
    assert set(results[:count]) <= {"EPIPE", "ENOTCONN"}
    assert results[count:] == ["EBADF"] * count


def test_numbers_above_the_limit_are_closed_where_nothing_else_can_be_done(pair):
    def child():
        a, b = pair
        high = fcntl.fcntl(a.fileno(), fcntl.F_DUPFD, 500)
        forksafe.close_on_fork(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        return run_in_child(lambda: error_of(lambda: os.write(high, b"x"))), os.write(high, b"x"), b.recv(9)

    assert run_in_child(child) == ("EBADF", 1, b"x")


# Forks that share or skip.


CLONE_FILES = 0x400


def with_a_shared_table(check):
    """check() in a child of clone(CLONE_FILES). run_in_child() is not for that: the parent closes its end there too."""
    pid = int(_libc.syscall(SYS_CLONE, signal.SIGCHLD | CLONE_FILES, 0, 0, 0, 0))
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    assert testing._reap(pid, 10) == 0


@pytest.mark.skipif(not SYS_CLONE, reason="no raw clone on this platform")
def test_a_child_that_shares_the_table_does_not_kill_the_parents(pair):
    """clone(CLONE_FILES): the child takes a table of its own first, and only its tombstones are in it."""
    a, b = pair
    forksafe.close_on_fork(a)

    def check():
        forksafe.generation()
        return use_socket(a) == ("EPIPE", b"") and atfork.state()["left_shared"] == 0

    with_a_shared_table(check)
    a.send(b"the parent's")
    assert b.recv(99) == b"the parent's"


@pytest.mark.skipif(not SYS_CLONE, reason="no raw clone on this platform")
def test_a_shared_table_that_cannot_be_left_is_let_be(pair):
    """A child with a second thread cannot leave a table it shares: the parent's descriptor must survive."""
    a, b = pair
    forksafe.close_on_fork(a)

    def check():
        wait = _thread.allocate_lock()
        wait.acquire()
        _thread.start_new_thread(wait.acquire, ())  # before anything of forksafe notices the fork
        forksafe.generation()
        return atfork.state()["left_shared"] == 1 and a.send(b"shared") == 6

    with_a_shared_table(check)
    a.send(b" and alive")
    assert b.recv(99) == b"shared and alive"


def test_subprocess(tmp_path):
    """vfork: as without flags. preexec_fn: dead there and in the program, also when it is passed on."""
    program = script(
        tmp_path / "program.py",
        """
        import os, socket, subprocess, sys, forksafe
        a, b = socket.socketpair()
        b.settimeout(5)
        forksafe.close_on_fork(a)
        writes = "import os, sys; os.write(int(sys.argv[1]), b'program')"
        def run(**more):
            return subprocess.run([sys.executable, "-c", writes, str(a.fileno())], pass_fds=[a.fileno()], timeout=20,
                                  stderr=subprocess.PIPE, text=True, **more)
        assert run().returncode == 0
        assert b.recv(99) == b"program"
        seen = []
        def look():
            try:
                a.send(b"preexec")
            except BrokenPipeError:
                os.write(1, b"dead ")
        done = run(preexec_fn=look)
        assert done.returncode == 1 and "Broken" in done.stderr, done
        if os.getuid() == 0:
            done = run(user=os.getuid())
            assert done.returncode == 1 and "Broken" in done.stderr, done
        a.send(b"parent")
        print(b.recv(99).decode())
    """,
    )
    assert succeeds(python(program)) == "dead parent\n"


def test_a_flagged_file_that_nobody_has_yet_closes_silently(tmp_path):
    """A child that exits with inherited, flagged sockets prints nothing and ends well."""
    program = script(
        tmp_path / "program.py",
        """
        import os, socket, sys, forksafe
        a, b = socket.socketpair()
        file = forksafe.close_on_fork(a).makefile("rwb")
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
    )
    result = python(program)
    assert succeeds(result) == "7\n"
    assert result.stderr == "" or "DeprecationWarning" in result.stderr


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
