"""FORKSAFE_WATCHDOG: a child that is blocked says what it is blocked on; one that is not says nothing."""

from __future__ import annotations

import concurrent.futures
import sys

import pytest

from support.programs import python, script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell what threads are in")

PRELUDE = """
import concurrent.futures, functools, logging, multiprocessing, os, queue, select, signal, socket, sys, threading, time
import forksafe
parent, go, inside = os.getpid(), threading.Event(), threading.Event()

def in_thread(function, name="the holder"):
    threading.Thread(target=function, name=name, daemon=True).start()
    assert inside.wait(10)

def forks(child):
    pid = os.fork()
    if pid == 0:
        signal.alarm(SECONDS)
        child()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(0 if status == WANTED else 3)
"""
HANGS = {
    "a lock of an object": (
        """
class Account:
    def __init__(self):
        self.lock = threading.Lock()
    def change(self):
        with self.lock:
            inside.set()
            go.wait(30)
account = Account()
in_thread(account.change)
forks(account.change)
""",
        ["MainThread waits for a Lock, __main__.Account.lock", "the holder", "in change", "forksafe.Lock"],
    ),
    "a module's RLock": (
        """
lock = threading.RLock()
def change():
    with lock:
        inside.set()
        go.wait(30)
in_thread(change)
forks(change)
""",
        ["waits for an RLock, __main__.lock", "the holder", "forksafe.RLock"],
    ),
    "a logging handler's lock": (
        """
class Slow(logging.Handler):
    def emit(self, record):
        inside.set()
        go.wait(30)
    def createLock(self):
        self.lock = threading.RLock()  # one that logging does not put right in children
logging.getLogger().addHandler(Slow())
in_thread(lambda: logging.warning("x"))
forks(lambda: logging.warning("y"))
""",
        ["waits for an RLock, __main__.Slow.lock", "the holder", "in emit"],
    ),
    "an executor": (
        """
executor = concurrent.futures.ThreadPoolExecutor(1)
executor.submit(pow, 2, 5).result()
forks(lambda: executor.submit(pow, 2, 6).result())
""",
        [
            "waits for something that another thread was to do when the process forked",
            "ThreadPoolExecutor-0_0",
            "in _worker",
        ],
    ),
    "a lock, after it has forked itself": (
        """
lock = threading.Lock()
def change():
    with lock:
        inside.set()
        go.wait(30)
in_thread(change)
def child():
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    change()
forks(child)
""",
        ["waits for a Lock, __main__.lock", "the holder"],
    ),
    "a pipe": (
        """
reader, writer = os.pipe()
forks(lambda: os.read(reader, 1))
""",
        ["waits for read() of descriptor", "pipe:", "close_on_fork()"],
    ),
}


# Nothing of the watching is to be seen by the program: not that there is a thread, nor at its own forks.
UNCHANGED = """
def child():
    assert forksafe.get_start_method() == "fork", "a single thread"
    assert forksafe.hazards(["thread"]) == []
    for n in range(20):
        time.sleep(1 if n == 10 else 0)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if forksafe.get_start_method() == "fork" else 5)
        assert os.waitpid(pid, 0)[1] == 0
    if hasattr(os, "forkpty"):
        pid, descriptor = os.forkpty()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
import warnings
warnings.simplefilter("always", DeprecationWarning)  # of a fork beside threads, from CPython 3.12 on
forks(child)
"""
QUIET = {
    "looks for threads and forks itself": UNCHANGED,
    "computes": "forks(lambda: [sum(range(1000)) for _ in iter(lambda: time.monotonic() < end, False)])",
    "sleeps": "forks(lambda: time.sleep(3))",
    "waits for a thread of its own": """
def child():
    thread = threading.Thread(target=time.sleep, args=(3,))
    thread.start()
    thread.join()
forks(child)
""",
    "waits for a lock that a thread of its own has": """
lock = threading.Lock()
in_thread(lambda: (inside.set(), go.wait(30)))
def hold():
    with lock:
        inside.set()
        time.sleep(3)
def child():
    inside.clear()
    in_thread(hold)
    lock.acquire()
forks(child)
""",
    "serves, with idle workers": """
in_thread(lambda: (inside.set(), go.wait(30)))
def child():
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.submit(pow, 2, 5).result()
    select.select([], [], [], 3)
forks(child)
""",
    "is a pool's worker without a task": """
in_thread(lambda: (inside.set(), go.wait(30)))
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, 2]) == [1, 2]
    time.sleep(3)
with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
    assert list(pool.map(abs, [-1, 2])) == [1, 2]
    time.sleep(3)
""",
}


def run(folder, body, seconds, wanted):
    folder.mkdir()
    text = PRELUDE.replace("SECONDS", str(seconds)).replace("WANTED", str(wanted)) + body
    return python("-W", "ignore", script(folder / "program.py", text), timeout=60, env={"FORKSAFE_WATCHDOG": "1"})


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """All at once, for they mostly wait."""
    folder = tmp_path_factory.mktemp("watchdog")
    with concurrent.futures.ThreadPoolExecutor(20) as executor:
        hang = {what: executor.submit(run, folder / what, body, 12, -14) for what, (body, _) in HANGS.items()}
        end = "end = time.monotonic() + 3\n"
        quiet = {what: executor.submit(run, folder / what, end + body, 40, 0) for what, body in QUIET.items()}
        yield {**hang, **quiet}


@pytest.mark.parametrize("what", HANGS)
def test_what_a_child_is_blocked_on(what, results):
    result = results[what].result(90)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("forksafe: process ") == 1, result.stderr
    for text in HANGS[what][1]:
        assert text in result.stderr, result.stderr


@pytest.mark.parametrize("what", QUIET)
def test_child_not_blocked(what, results):
    """A child that is not blocked reports nothing."""
    result = results[what].result(90)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan"])
def test_bad_values(given):
    result = python("-c", "import forksafe; print('goes on')", env={"FORKSAFE_WATCHDOG": given})
    assert (result.returncode, result.stdout) == (0, "goes on\n")
    assert result.stderr == f"forksafe: FORKSAFE_WATCHDOG takes a number of seconds above 0, not {given!r}\n"


@pytest.mark.parametrize("failing", ["take_snapshot", "threading.Thread.start"])
def test_internal_error(failing):
    """An error of forksafe's own is one line, and the program goes on."""
    result = python("-W", "ignore", "-c", f"""
import os, threading
import forksafe
from forksafe.diagnostics.hangs import watchdog
def fails(*arguments):
    raise RuntimeError("of\\nthe test")
watchdog.{failing} = fails
pid = os.fork()
if pid == 0:
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
""", env={"FORKSAFE_WATCHDOG": "5"})  # fmt: skip
    assert result.returncode == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("forksafe: the watchdog of process ")
    assert line.endswith(" failed: RuntimeError: of the test")
