"""Thousands of forks under busy threads: none hangs, none loses mutual exclusion.

FORKSAFE_STORM=5000 python -m pytest tests/core/test_storm.py runs the long form.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

import forksafe
from forksafe.testing import _kill, _reap
from support.forks import FORKS
from support.threads import threads

COUNT = int(os.environ.get("FORKSAFE_STORM", "30"))


class State:
    """What eight threads keep busy: each lock guards a pair that is equal whenever it is free."""

    def __init__(self):
        self.lock = forksafe.Lock(on_orphan=lambda: self.mend("lock"))
        self.rlock = forksafe.RLock(on_orphan=lambda: self.mend("rlock"))
        self.condition = forksafe.Condition(forksafe.RLock(on_orphan=lambda: self.mend("condition")))
        self.bounded = forksafe.BoundedSemaphore(2)
        self.semaphore = forksafe.Semaphore(2, at_fork="restore")
        self.pairs = {name: [0, 0] for name in ("lock", "rlock", "condition")}
        self.errors = []
        self.stop = False

    def mend(self, name):
        pair = self.pairs[name]
        pair[0] = pair[1] = max(pair)

    def step(self, name):
        pair = self.pairs[name]
        if pair[0] != pair[1]:
            self.errors.append(name)
        pair[0] += 1
        pair[1] += 1

    def turn(self):
        with self.lock:
            self.step("lock")
        with self.rlock, self.rlock:
            self.step("rlock")
        with self.condition:
            self.step("condition")
            self.condition.notify()
            self.condition.wait(0.0005)
        with self.bounded, self.semaphore:
            pass

    def work(self):
        while not self.stop:
            self.turn()


def check(state: State) -> int:
    """In a child: every primitive works, at full capacity, alone and among new threads."""
    for _ in range(3):
        state.turn()
    if state.bounded._value != 2 or state.semaphore._value != 2:
        return 3
    made = [threading.Thread(target=state.turn, daemon=True) for _ in range(2)]
    for thread in made:
        thread.start()
    for thread in made:
        thread.join(10)
    if any(thread.is_alive() for thread in made):
        return 4
    return 5 if state.errors else 0


@pytest.mark.parametrize("who", ["main thread", "worker threads"])
@pytest.mark.timeout(1500)
def test_storm(who):
    state = State()
    statuses = []

    def fork_some(count):
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                status = 9
                try:
                    status = check(state)
                finally:
                    os._exit(status)
            statuses.append(_reap(pid, 30))
            if statuses[-1] is None:
                _kill(pid)
                return

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with threads(state.work, 8):
            try:
                if who == "main thread":
                    fork_some(COUNT)
                else:
                    with threads(lambda: fork_some(COUNT // 2), 2, limit=1200):
                        pass
            finally:
                state.stop = True
    finally:
        sys.setswitchinterval(interval)
    assert statuses == [0] * COUNT
    assert not state.errors


@pytest.mark.parametrize("fork_name", [name for name in FORKS if name != "os.fork"])
def test_storm_of_c_forks(fork_name):
    """Without Python hooks, some without handlers.

    Such a child inherits the GIL's condition variable in use and hangs where it lets the GIL go, which is no fault of
    any lock. So nobody asks for the GIL here (the switch interval is long, threads yield by sleeping), and the
    children only take locks and leave.
    """
    lock, rlock = forksafe.Lock(), forksafe.RLock()
    bounded = forksafe.BoundedSemaphore(2)
    stop = False

    def work():
        while not stop:
            with lock, rlock, bounded:
                time.sleep(0.0002)

    statuses = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        with threads(work, 4):
            for _ in range(COUNT // 2):
                pid = FORKS[fork_name]()
                if pid == 0:
                    with lock, rlock, bounded:
                        os._exit(0 if lock.locked() and bounded._value == 1 else 3)
                statuses.append(_reap(pid, 20))
                if statuses[-1] is None:
                    _kill(pid)
                    break
            stop = True
    finally:
        sys.setswitchinterval(interval)
    assert statuses == [0] * (COUNT // 2)
