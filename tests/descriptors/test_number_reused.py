"""close_on_fork(): the flag belongs to the file, not to the number that another file may have by now."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket

import pytest

import forksafe
from forksafe.testing import run_in_child
from forksafe_core import atfork
from support.descriptors import error_of, use_socket


def reuse_pair(closing, number):
    """A new pair, the first of which gets the number of a socket that is closed."""
    closing.close()
    c, d = socket.socketpair()
    if c.fileno() != number:
        c, d = d, c
    assert c.fileno() == number
    return c, d


def test_socket_number_reused(fork):
    """A socket number that was reused is left alone."""
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


def test_file_opened_again(tmp_path):
    """A file that was closed and opened again is left alone."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    file = open(path, "rb")
    number = file.fileno()
    forksafe.close_on_fork(file)
    file.close()
    with open(path, "rb", buffering=0) as again:
        assert again.fileno() == number
        assert run_in_child(lambda: again.read(3)) == b"con"


def test_int_of_file_opened_again(tmp_path, fork):
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
def test_epoll_number_reused():
    """It is left alone, too."""
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
    flags = fcntl.fcntl(a, fcntl.F_GETFL)
    before = signal.signal(signal.SIGIO, lambda number, _: caught.append(number))
    try:
        fcntl.fcntl(a, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(a, fcntl.F_SETFL, flags | os.O_ASYNC)
        b.send(b"x")
        assert a.recv(9) == b"x"
    finally:
        fcntl.fcntl(a, fcntl.F_SETFL, flags)  # or the end of the other would be told by the signal that ends a process
        signal.signal(signal.SIGIO, before)
    assert set(caught) == {signal.SIGIO}


def test_file_collected(tmp_path):
    """Its flag ends."""
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
