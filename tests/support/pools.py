"""What the tests of ConnectionPool share: connections that remember, and threads that are waited for."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

LIMIT = 10  # seconds that only a hang reaches


class Conn:
    """What a pool needs of a connection, and a record of what was done to it."""

    closed = False

    def __init__(self):
        self.done = []

    def rollback(self):
        self.done.append("rollback")

    def close(self):
        self.done.append("close")
        self.closed = True


class Made(list):
    """connect(), which keeps what it made."""

    def __call__(self):
        self.append(Conn())
        return self[-1]


def in_thread(function):
    """Runs it in a thread; returns a function that waits for what it returned or raised."""
    outcome = []

    def run():
        try:
            outcome.append(function())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result():
        thread.join(LIMIT)
        assert outcome, "the thread hangs"
        return outcome[0]

    return result


def wait_until(condition):
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)


def others_sleep():
    """True when every other thread sleeps, also those that Python thinks have ended; where that can be told."""
    try:
        tasks = os.listdir("/proc/self/task")
        states = [Path(f"/proc/self/task/{task}/stat").read_text().rpartition(") ")[2][0] for task in tasks]
    except OSError:
        return not os.path.isdir("/proc/self/task")
    return states.count("S") == len(tasks) - 1


def wait_for_waiters(pool, count):
    wait_until(lambda: pool.stats().requests_waiting == count)


def watchers(pool):
    return [thread for thread in threading.enumerate() if thread.name == f"{pool.name}-watch"]
