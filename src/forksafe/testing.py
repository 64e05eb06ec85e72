"""run_in_child(): run a function in a forked child, and know what became of it.

Guarantees: the call returns within about its timeout whatever the child does. It returns the child's value or
raises the child's exception; a child that ends in any other way, or hangs, is a ChildError that says how, with the
child's Python stacks (and, where gdb is installed, its C stacks) if it had to be killed. No child is left behind.

The child ends by os._exit(): no atexit function, no finaliser of the parent's test session runs in it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import pickle
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import IO, Any, TypeVar

from forksafe.errors import ChildError, ChildTimeout

__all__ = ["ChildError", "ChildTimeout", "run_in_child"]

T = TypeVar("T")

_LENGTH = struct.Struct("!Q")
_STACKS_TIMEOUT = 5.0  # seconds for a killed child to write its stacks
_GDB_TIMEOUT = 20.0


def run_in_child(
    fn: Callable[[], T], timeout: float = 10.0, *, fork: Callable[[], int] | None = None, c_stacks: bool = True
) -> T:
    """Fork, run fn() in the child, return its value or raise its exception, with the child's traceback as cause.

    timeout: seconds for the child. fork: called instead of os.fork, for a fork made some other way. c_stacks: ask
    gdb, where it is installed, for the C stacks of a child that hangs. Value and exception are pickled.

    ChildTimeout if the child hung; ChildError if it ended without a result.
    """
    if fork is None and not hasattr(os, "fork"):
        raise NotImplementedError("run_in_child() needs os.fork, which this platform does not have")
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile() as stacks, open(read_end, "rb", buffering=0) as results:
        try:
            pid = (fork or os.fork)()
            if pid == 0:
                _be_the_child(fn, write_end, stacks)
        finally:
            os.close(write_end)
        if pid < 0:
            raise OSError("run_in_child(): the fork failed")
        try:
            message, status = _wait_for(pid, results.fileno(), timeout)
        except BaseException:
            _kill(pid)
            raise
        if message is None:
            if status is None:
                text = _stacks_of(pid, stacks, c_stacks)
                hung = f"the child hung for more than {timeout:g} seconds and was killed{text}"
                raise ChildTimeout(hung, stacks=text)
            text = _read(stacks)
            how = f"was killed by {_signal_name(-status)}" if status < 0 else f"exited with status {status}"
            raise ChildError(f"the child {how}, without a result{text}", status=status, stacks=text)
    result: T = _unpack(message)
    return result


def _be_the_child(fn: Callable[[], Any], write_end: int, stacks: IO[bytes]) -> None:
    status = 70
    try:
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable(stacks, all_threads=True)  # SIGABRT writes the stacks, needing no lock and no GIL
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGABRT})
        try:
            message = _pack("value", fn())
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
            os._exit(status & 0xFF)
        except BaseException as error:
            message = _pack_error(error)
        _write(write_end, _LENGTH.pack(len(message)) + message)
        status = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            _write(stacks.fileno(), traceback.format_exc().encode())
    finally:
        os._exit(status)


def _pack(kind: str, value: Any) -> bytes:
    return pickle.dumps((kind, value, ""))


def _pack_error(error: BaseException) -> bytes:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    try:
        message = pickle.dumps(("error", error, text))
        pickle.loads(message)
    except Exception:
        described = ChildError(f"{type(error).__name__} in the child, which cannot be pickled: {error}")
        message = pickle.dumps(("error", described, text))
    return message


class _ChildTraceback(Exception):
    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _unpack(message: bytes) -> Any:
    kind, value, text = pickle.loads(message)
    if kind == "value":
        return value
    value.__cause__ = _ChildTraceback(text)
    raise value


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _wait_for(pid: int, results: int, timeout: float) -> tuple[bytes | None, int | None]:
    """The child's message and exit status; without a message, its status; with neither, it hangs."""
    deadline = time.monotonic() + timeout
    received = b""
    status = None
    while True:
        left = deadline - time.monotonic()
        readable = _is_readable(results, max(0, min(left, 0.05)))
        chunk = os.read(results, 1 << 16) if readable else b""
        received += chunk
        if len(received) >= _LENGTH.size and len(received) == _LENGTH.size + _LENGTH.unpack_from(received)[0]:
            status = _reap(pid, max(left, 1)) if status is None else status
            return (received[_LENGTH.size :], status) if status == 0 else (None, status)
        if chunk:
            continue
        # End of file comes before the end of the child, or never, if a grandchild has the pipe too.
        status = _poll(pid) if status is None else status
        if status is not None and (readable or not _is_readable(results, 0)):
            return None, status
        if left <= 0:
            return None, None
        if readable:
            time.sleep(0.001)


def _is_readable(fd: int, seconds: float) -> bool:
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _poll(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def _reap(pid: int, timeout: float) -> int | None:
    deadline = time.monotonic() + timeout
    pause = 0.0002
    while (status := _poll(pid)) is None and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
    return status


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _read(stacks: IO[bytes]) -> str:
    stacks.seek(0)
    text = stacks.read().decode(errors="replace").strip()
    return f"\n{text}" if text else ""


def _stacks_of(pid: int, stacks: IO[bytes], c_stacks: bool) -> str:
    gdb = shutil.which("gdb") if c_stacks and sys.platform == "linux" else None
    native = ""
    if gdb:
        command = [gdb, "-nx", "-q", "-batch", "-p", str(pid), "-ex", "thread apply all bt 25"]
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_GDB_TIMEOUT
            )
            frames = [line for line in done.stdout.splitlines() if line.startswith(("#", "Thread "))]
            native = "\nC stacks:\n" + "\n".join(frames) if frames else ""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGABRT)
    if _reap(pid, _STACKS_TIMEOUT) is None:
        _kill(pid)
    return _read(stacks) + native


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
