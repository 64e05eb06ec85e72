"""What the tests share: the ways to fork, and programs run in a fresh interpreter."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import forksafe


def pytest_configure(config: pytest.Config) -> None:
    """Not in pyproject.toml: pytest would import forksafe for it, before coverage and the like have begun."""
    config.addinivalue_line("filterwarnings", "error::forksafe.ForkHazardWarning")
    config.addinivalue_line("markers", "server: needs a PostgreSQL, a MariaDB or a Redis; every test that asks for one")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell's background jobs begin with
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"postgres", "mariadb", "redis_server"}.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("server")


SHAPES_OUTPUT = (
    "CI", "BUILD_NUMBER", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "PYTHON_COLORS",
    "PYTEST_ADDOPTS", "PYTHONUNBUFFERED",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def plain_output() -> Iterator[None]:
    """The programs that tests run write the same everywhere: under CI pytest would cut none of its lines short."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SHAPES_OUTPUT:
            patch.delenv(name, raising=False)
        yield


FREE_THREADED = not getattr(sys, "_is_gil_enabled", lambda: True)()
FORK_HERE = hasattr(os, "fork")
if not FORK_HERE:  # what is left to test: that everything imports, and works as threading's
    collect_ignore = [
        path.name
        for path in Path(__file__).parent.glob("test_*.py")
        if path.name not in ("test_pure.py", "test_typing.py")
    ]

if FORK_HERE:
    from servers import mariadb, postgres, redis_server  # noqa: F401  # fixtures
    from sessions import Server, serving

_libc: Any = ctypes.PyDLL(None, use_errno=True) if FORK_HERE else None
SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())


def _raw_clone() -> int:
    return int(_libc.syscall(SYS_CLONE, signal.SIGCHLD, 0, 0, 0, 0))


FORKS: dict[str, Callable[[], int]] = {"os.fork": os.fork, "C fork": _libc.fork} if FORK_HERE else {}
# Parking without futexes looks up 20 times a second and so competes for the GIL, after which the child of a C fork may
# hang in the interpreter's own condition variable: there only os.fork is tested.
if os.environ.get("FORKSAFE_TEST_ONLY_OS_FORK") or sys.platform != "linux":
    FORKS.pop("C fork", None)
else:
    if hasattr(_libc, "_Fork"):
        FORKS["_Fork"] = _libc._Fork
    if SYS_CLONE:
        FORKS["raw clone"] = _raw_clone
HANDLERS_RUN = {"os.fork", "C fork"}


@pytest.fixture(params=list(FORKS))
def fork_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """The child of a fork that CPython did not make hangs in the interpreter's own condition variable if a thread asked
    for the GIL just then. Threads ask after the switch interval: here nobody does."""
    before = sys.getswitchinterval()
    if request.param != "os.fork":
        sys.setswitchinterval(100)
    yield str(request.param)
    sys.setswitchinterval(before)


def _settle() -> None:
    """Who has just been woken and waits for the GIL comes to its next wait, also where the machine is busy: that thread
    has something to run then."""
    quiet, end = 0, time.monotonic() + 10
    while quiet < 2 and time.monotonic() < end:
        time.sleep(0.01)
        quiet = 0 if any(map(_runs, os.listdir("/proc/self/task"))) else quiet + 1


def _runs(task: str) -> bool:
    try:
        state = Path(f"/proc/self/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it has ended
        return True
    return state != "S" and int(task) != threading.get_native_id()


@pytest.fixture
def fork(fork_name: str) -> Callable[[], int]:
    """Each way to fork in turn; for run_in_child(fork=...)."""
    if fork_name == "os.fork":
        return os.fork

    def fork() -> int:
        gc.collect()  # of Threads that were not joined the interpreter would detach, in the child, what is not there
        _settle()
        return FORKS[fork_name]()

    return fork


def skip_without_the_gil(fork_name: str) -> None:
    """For forks among running threads."""
    if FREE_THREADED and fork_name != "os.fork":
        pytest.skip("without the GIL another thread may have a lock of the interpreter's own at any moment")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    a, b = socket.socketpair()
    with a, b:
        a.settimeout(5)
        b.settimeout(5)
        yield a, b


@pytest.fixture(scope="module")
def session_server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def no_old_threads() -> None:
    """For CPython's own tests: after each they wait, up to a minute and more, until there are the threads again that
    there were before it; those of earlier tests that are garbage must be gone before."""
    gc.collect()


LOCKS: dict[str, tuple[Any, Any]] = {
    "Lock": (forksafe.Lock, threading.Lock),
    "RLock": (forksafe.RLock, threading.RLock),
}


@pytest.fixture(params=list(LOCKS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lock(kind: str) -> Any:
    return LOCKS[kind][0]()


class Busy:
    """A thread that calls `enter` and stays inside until it is told to go."""

    def __init__(self, enter: Callable[[], object], leave: Callable[[], object] | None = None) -> None:
        self._enter, self._leave = enter, leave
        self._inside, self._go = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self._inside.wait(10), "the thread did not get in"

    def _run(self) -> None:
        self._enter()
        self._inside.set()
        self._go.wait(60)
        if self._leave:
            self._leave()

    def end(self) -> None:
        self._go.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def busy() -> Iterator[Callable[..., Busy]]:
    """busy(enter, leave): a thread that did enter(), for a fork to leave behind."""
    made: list[Busy] = []

    def make(enter: Callable[[], object], leave: Callable[[], object] | None = None) -> Busy:
        made.append(Busy(enter, leave))
        return made[-1]

    yield make
    for each in made:
        each.end()


@contextmanager
def threads(target: Callable[[], object], count: int, limit: float = 30) -> Iterator[list[threading.Thread]]:
    """`count` threads that run target; joined at the end, each within limit seconds."""
    made = [threading.Thread(target=target, daemon=True) for _ in range(count)]
    for thread in made:
        thread.start()
    try:
        yield made
    finally:
        for thread in made:
            thread.join(limit)
        assert not any(thread.is_alive() for thread in made), "threads are stuck in the parent"


def python(*arguments: str, timeout: float = 30, **more: object) -> subprocess.CompletedProcess[str]:
    """This interpreter, run with arguments, in a session of its own that is killed as a whole when time is up."""
    environment = {**os.environ, **more.pop("env", {})}  # type: ignore[dict-item]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment, **more,  # type: ignore[call-overload]
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"hung for more than {timeout} s\nstdout: {out[-4000:]}\nstderr: {err[-4000:]}") from None
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def script(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


def succeeds(result: subprocess.CompletedProcess[str]) -> str:
    """The output of a program that ended well."""
    assert result.returncode == 0, f"status {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}"
    return result.stdout


def hangs(*arguments: str, timeout: float = 1.5, **more: object) -> bool:
    """The negative control: does the program hang?"""
    try:
        result = python(*arguments, timeout=timeout, **more)
    except AssertionError:
        return True
    assert result.returncode == 0, result.stderr
    return False
