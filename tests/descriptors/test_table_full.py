"""close_on_fork() where the child has no room for tombstones."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import socket
import tempfile

import pytest

import forksafe
from forksafe import testing
from forksafe.testing import run_in_child
from support.descriptors import error_of


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


def test_numbers_above_limit(pair):
    """They are closed where nothing else can be done."""

    def child():
        a, b = pair
        high = fcntl.fcntl(a.fileno(), fcntl.F_DUPFD, 500)
        forksafe.close_on_fork(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
        return run_in_child(lambda: error_of(lambda: os.write(high, b"x"))), os.write(high, b"x"), b.recv(9)

    assert run_in_child(child) == ("EBADF", 1, b"x")
