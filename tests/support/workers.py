"""Pools of workers that are all in a task, for the tests of adapters."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.pool
import os
import threading
import time
from pathlib import Path

import forksafe

LIMIT = 30
CONTEXT = multiprocessing.get_context("fork")
in_child = forksafe.generation  # after a fork by C hooks run at the first call of forksafe


go = threading.Event()  # for those who are threads here: who polls asks for the GIL


def block(directory):
    """Say in a file that it runs, and run until there is another."""
    Path(directory, f"inside {os.getpid()} {threading.get_ident()}").touch()
    if multiprocessing.parent_process() is None:
        go.wait(LIMIT)
    deadline = time.monotonic() + LIMIT
    while not Path(directory, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with open(Path(directory, "ran"), "a") as ran:
        ran.write("blocked\n")


def blocked(directory, submit, size):
    """Have all workers busy, and more waiting; returns what submit() gave."""
    go.clear()
    made = [submit(block, str(directory)) for _ in range(size + 2)]
    deadline = time.monotonic() + LIMIT
    while len(list(directory.glob("inside*"))) < size:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return made


def end(directory, results, get):
    """Everything was done in the parent, once."""
    (directory / "go").touch()
    go.set()
    for each in results:
        get(each)
    assert (directory / "ran").read_text() == "blocked\n" * len(results)


# ProcessPoolExecutor


class Derived(concurrent.futures.ProcessPoolExecutor):
    """Its arguments are its own."""

    def __init__(self):
        super().__init__(2, mp_context=CONTEXT, initializer=os.putenv, initargs=("FORKSAFE_TEST", "1"))


def standard():
    return concurrent.futures.ProcessPoolExecutor(2, mp_context=CONTEXT)
