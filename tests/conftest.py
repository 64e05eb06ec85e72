"""The fixtures that all tests share: the ways to fork, threads and locks, and servers. Others are in support."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.forks import FORK_HERE, FORKS, settle
from support.lanes import pytest_cmdline_main, pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401
from support.threads import LOCKS, Busy

if FORK_HERE:
    from support.server_sessions import Server, serving
    from support.servers import mariadb, postgres, redis_server  # noqa: F401  # fixtures


def pytest_configure(config: pytest.Config) -> None:
    """Not in pyproject.toml: pytest would import forksafe for it, before coverage and the like have begun."""
    config.addinivalue_line("filterwarnings", "error::forksafe.ForkHazardWarning")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # what a shell's background jobs begin with
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What exists now stays: collections here and in each forked child need not go through it, or copy it."""
    gc.collect()
    gc.freeze()


SHAPES_OUTPUT = (
    "CI", "BUILD_NUMBER", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PY_COLORS", "PYTHON_COLORS",
    "PYTEST_ADDOPTS", "PYTHONUNBUFFERED",
    "PYTEST_XDIST_TESTRUNUID", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def plain_output() -> Iterator[None]:
    """The programs that tests run write the same everywhere: under CI pytest would cut none of its lines short."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SHAPES_OUTPUT:
            patch.delenv(name, raising=False)
        yield


if not FORK_HERE:  # what is left to test: that everything imports, and works as threading's
    HERE = Path(__file__).parent
    LEFT = HERE / "core", HERE / "core" / "test_pure.py", HERE / "test_typing.py"
    # Whole folders, so that their conftest.py is not imported either.
    collect_ignore = [path for path in (*HERE.iterdir(), *LEFT[0].iterdir()) if path not in LEFT]


@pytest.fixture(params=list(FORKS))
def fork_name(request: pytest.FixtureRequest) -> Iterator[str]:
    """The child of a fork that CPython did not make hangs in the interpreter's own condition variable if a thread asked
    for the GIL just then. Threads ask after the switch interval: here nobody does."""
    before = sys.getswitchinterval()
    if request.param != "os.fork":
        sys.setswitchinterval(100)
    yield str(request.param)
    sys.setswitchinterval(before)


@pytest.fixture
def fork(fork_name: str) -> Callable[[], int]:
    """Each way to fork in turn; for run_in_child(fork=...)."""
    if fork_name == "os.fork":
        return os.fork

    def fork() -> int:
        gc.collect()  # of Threads that were not joined the interpreter would detach, in the child, what is not there
        settle()
        return FORKS[fork_name]()

    return fork


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


@pytest.fixture(params=list(LOCKS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lock(kind: str) -> Any:
    return LOCKS[kind][0]()


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
