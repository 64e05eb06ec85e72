"""Processes of get_context(), and programs that start them: for the tests of processes.py and process_pool.py.

What a process is to run is imported by it, so this imports little.
"""

from __future__ import annotations

import concurrent.futures
import functools
import os
import sys
import textwrap
import threading

import pytest

from forksafe.processes.context import get_context
from support.programs import TESTS

LINUX = sys.platform == "linux"
linux = pytest.mark.skipif(not LINUX, reason="elsewhere threads cannot be counted, and nothing is forked")

CONTEXT = get_context()
LIMIT = 50  # seconds for what takes one when nothing else runs
METHODS = ["fork", "forkserver", "spawn"]


def in_thread(fn):
    """fn() called in another thread; what it returns or raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(fn).result(LIMIT)


class Among:
    """Another thread exists meanwhile, so that nothing is forked."""

    def __enter__(self):
        self.end = threading.Event()
        self.thread = threading.Thread(target=self.end.wait, daemon=True)
        self.thread.start()

    def __exit__(self, *_):
        self.end.set()
        self.thread.join()


def answer(connection, *more):
    connection.send((os.getpid(), os.getppid(), *more))


def ask(target=answer, *more, **how):
    """Start a process that answers; returns how it was started and what it says."""
    reader, writer = CONTEXT.Pipe(False)
    process = CONTEXT.Process(target=target, args=(writer, *more), **how)
    process.start()
    writer.close()  # so that there is an end of file if it ends without an answer
    method = process._popen.method
    assert reader.poll(LIMIT), "no answer"
    said = reader.recv()
    process.join(LIMIT)
    assert process.exitcode == 0
    process.close()
    return method, said


# What workers of a process pool run

_worker = {}


def prepare(**given):
    """An initializer: what this worker has been given, and who it is."""
    _worker.update(given, pid=os.getpid())


def prepared():
    return _worker["pid"] == os.getpid(), os.getpid()


def pass_gate():
    _worker["inside"].set()
    assert _worker["gate"].wait(LIMIT)
    return os.getpid()


class Gated:
    """A pool, made by make(), whose one worker is in a task until open(), with more tasks waiting."""

    def __init__(self, make, *, started_by=CONTEXT):
        self.gate, inside = started_by.Event(), started_by.Event()
        initializer = functools.partial(prepare, gate=self.gate, inside=inside)
        self.executor = make(1, initializer=initializer)
        self.running = self.executor.submit(pass_gate)
        self.waiting = [self.executor.submit(pow, 2, n) for n in range(5)]
        self.all = [self.running, *self.waiting]
        assert inside.wait(LIMIT)

    def open(self):
        """Everything has been done by the parent's worker, once."""
        self.gate.set()
        assert self.running.result(LIMIT) != os.getpid()
        assert [each.result(LIMIT) for each in self.waiting] == [1, 2, 4, 8, 16]
        self.executor.shutdown()


HEADER = f"""
import ctypes, glob, multiprocessing, os, signal, sys, threading, time
sys.path.insert(0, {TESTS!r})
from forksafe.processes import parent_death, process as processes
from forksafe.processes.context import get_context
from forksafe.processes.start_method import get_start_method
context = get_context()
LIMIT = 50

def is_alive(pid):
    # One whose main thread has ended has that state, too, while others of its threads live.
    return any(state_of(path) not in "ZX" for path in glob.glob(f"/proc/{{pid}}/task/*/stat"))

def state_of(path):
    try:
        with open(path) as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"

def ends(pid):
    deadline = time.monotonic() + LIMIT
    while is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True

def forced(method):  # from now on, in this process
    processes.get_start_method = lambda: method
"""


def run_program(tmp_path, text):
    """Run HEADER and text as a program."""
    from support.programs import python, script

    return python(script(tmp_path / "program.py", HEADER + textwrap.dedent(text)), timeout=100)
