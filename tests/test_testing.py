"""run_in_child(): what it promises to everybody else's tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import forksafe
from forksafe import testing
from forksafe.testing import ChildError, ChildTimeout, run_in_child
from support.servers import keepers


def _multiprocessings() -> set[int]:
    forkserver: Any = sys.modules.get("multiprocessing.forkserver")
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    found = {forkserver and forkserver._forkserver._forkserver_pid, tracker and tracker._resource_tracker._pid}
    return {pid for pid in found if pid}


def children() -> int:
    """Children of this process, dead ones included, without the servers of other tests and multiprocessing's."""
    if os.path.isdir("/proc/self"):
        return len({pid for pid, parent in processes() if parent == os.getpid()} - keepers - _multiprocessings())
    try:
        return int(os.waitpid(-1, os.WNOHANG)[0] == 0)
    except ChildProcessError:
        return 0


def processes() -> Iterator[tuple[int, int]]:
    """The system's processes and their parents."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            yield int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("value", [None, 42, "x" * 10, b"y" * 3_000_000, {"a": [1, 2]}])
def test_value(value):
    assert run_in_child(lambda: value) == value
    assert children() == 0


def test_exception_traceback():
    """The exception has the child's traceback."""

    def fails_here():
        raise KeyError("from the child")

    with pytest.raises(KeyError, match="from the child") as info:
        run_in_child(fails_here)
    assert "fails_here" in str(info.value.__cause__)
    assert children() == 0


def test_exception_that_cannot_be_pickled():
    class Local(Exception):
        pass

    def fails():
        raise Local("deep inside")

    with pytest.raises(ChildError, match=r"Local in the child.*deep inside") as info:
        run_in_child(fails)
    assert "deep inside" in str(info.value.__cause__)


def test_value_that_cannot_be_pickled():
    with pytest.raises(TypeError, match="cannot pickle"):
        run_in_child(threading.Lock)


@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (lambda: os._exit(3), 3, "exited with status 3"),
        (lambda: os._exit(0), 0, "exited with status 0, without a result"),
        (lambda: sys.exit(4), 4, "exited with status 4"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), -9, "was killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), -11, "was killed by SIGSEGV"),
    ],
)
def test_child_that_ends_without_a_result(end, status, message):
    with pytest.raises(ChildError, match=message) as info:
        run_in_child(end)
    assert info.value.status == status
    assert not isinstance(info.value, ChildTimeout)
    assert children() == 0


def test_child_dies_in_message(monkeypatch):
    """A child that dies after it began its message is a ChildError."""
    real = testing._write
    monkeypatch.setattr(testing, "_write", lambda fd, data: (real(fd, data[:10]), os._exit(9)))
    with pytest.raises(ChildError) as info:
        run_in_child(lambda: 1)
    assert info.value.status == 9


def hang_here(lock):
    lock.acquire()


def test_child_hangs():
    """It is killed, and its stacks are in the error."""
    lock = threading.Lock()
    lock.acquire()
    start = time.monotonic()
    with pytest.raises(ChildTimeout, match=r"hung for more than 0\.3 seconds") as info:
        run_in_child(lambda: hang_here(lock), 0.3)
    assert time.monotonic() - start < 30
    assert "hang_here" in info.value.stacks
    assert isinstance(info.value, TimeoutError)
    assert ("C stacks" in info.value.stacks) == (shutil.which("gdb") is not None and sys.platform == "linux")
    assert children() == 0


def test_child_hangs_in_c():
    """Also one that holds the GIL in C, with signals blocked."""

    def stuck():
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        import ctypes

        ctypes.PyDLL(None).pause()

    with pytest.raises(ChildTimeout):
        run_in_child(stuck, 0.3, c_stacks=False)
    assert children() == 0


def test_grandchild_keeps_pipe():
    def child():
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        os._exit(5)

    start = time.monotonic()
    with pytest.raises(ChildError, match="status 5"):
        run_in_child(child)
    assert time.monotonic() - start < 2.9


def test_no_descriptors_leak():
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts descriptors in /proc")
    run_in_child(lambda: 1)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        run_in_child(lambda: 1)
        with pytest.raises(ChildError):
            run_in_child(lambda: os._exit(1))
    assert len(os.listdir("/proc/self/fd")) == before


def test_fork_that_fails():
    with pytest.raises(OSError, match="the fork failed"):
        run_in_child(lambda: 1, fork=lambda: -1)

    def refuses():
        raise BlockingIOError("no more processes")

    with pytest.raises(BlockingIOError):
        run_in_child(lambda: 1, fork=refuses)


def test_atexit_does_not_run_in_the_child(tmp_path):
    from support.programs import python, script, succeeds

    program = script(
        tmp_path / "program.py",
        """
        import atexit
        from forksafe.testing import run_in_child
        atexit.register(print, "bye")
        assert run_in_child(lambda: 1) == 1
    """,
    )
    assert succeeds(python(program)) == "bye\n"


def test_exported():
    assert forksafe.testing is testing
    assert forksafe.ChildError is ChildError
