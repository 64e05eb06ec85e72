"""An executor that is busy, and programs whose tasks fork: for the tests of forksafe's and of protected executors."""

from __future__ import annotations

import threading

from support.forks import SYS_CLONE
from support.programs import script


class Blocked:
    """An executor whose threads are all in a task, with more tasks waiting; `ran` has those that were run."""

    def __init__(self, executor):
        self.go, self.ran = threading.Event(), []
        size = executor._max_workers
        inside = threading.Barrier(size + 1, timeout=10)
        self.running = [executor.submit(self._block, inside, n) for n in range(size)]
        inside.wait()
        self.waiting = [executor.submit(self.ran.append, f"waiting {n}") for n in range(5)]
        self.all = [*self.running, *self.waiting]

    def _block(self, inside, n):
        inside.wait()
        self.go.wait(30)
        self.ran.append(f"running {n}")

    def end(self):
        self.go.set()
        for future in self.all:
            future.result(10)
        assert len(self.ran) == len(set(self.ran)) == len(self.all)


PRELUDE = """
import asyncio, atexit, ctypes, os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import concurrent.futures
import forksafe
from {module} import ThreadPoolExecutor
libc = ctypes.PyDLL(None)
FORKS = {{
    "os.fork": os.fork, "C fork": libc.fork, "_Fork": getattr(libc, "_Fork", None),
    "raw clone": lambda: libc.syscall({clone}, signal.SIGCHLD, 0, 0, 0, 0),
}}
fork = FORKS[{fork!r}]
if fork is not os.fork:
    sys.setswitchinterval(100)  # nobody asks for the GIL while it is forked
parent = os.getpid()
ran = os.pipe()

def note(what):
    os.write(ran[1], f"{{what}} {{'parent' if os.getpid() == parent else 'child'}}\\n".encode())

def wait_for(pid):
    deadline = time.monotonic() + {limit}
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGABRT)
    os.waitpid(pid, 0)
    return "hung"

def noted():
    os.close(ran[1])
    with open(ran[0]) as pipe:
        return sorted(pipe.read().splitlines())

executor = ThreadPoolExecutor({size})
"""

QUEUE = """
go = threading.Event()

def task():
    go.wait(10)
    pid = fork()
    if pid == 0:
        signal.alarm(20)
        {child}
    note("task")
    return pid

future = executor.submit(task)
others = [executor.submit(note, f"other {{n}}") for n in range(3)] if {size} == 1 else []
go.set()
status = wait_for(future.result(10))
executor.shutdown()
assert status == {status!r}, status
assert noted() == {noted!r}, noted
"""


def program(tmp_path, text, *, fork="os.fork", size=1, module="forksafe", limit=30, **more):
    """limit: seconds that it waits for a child."""
    whole = (PRELUDE + text).format(fork=fork, size=size, module=module, limit=limit, clone=SYS_CLONE, **more)
    return script(tmp_path / "program.py", whole)
