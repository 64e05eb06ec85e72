"""What the compiled types do when threads use them hard, for ThreadSanitizer; as a check of its own without one.

    python stress.py SECONDS

Each part is a step that several threads repeat; what it protects is a pair of numbers that are equal whenever nobody is
inside. Exit status 1 and a line for each part that lost one, or whose threads did not end.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # before forksafe, which then need not let go of its lock around hooks
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import forksafe

THREADS = 4
problems: list[str] = []


class Pair:
    """Two numbers that are changed one after the other under a lock."""

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock
        self.first = self.second = 0

    def step(self) -> None:
        with self.lock:
            if self.first != self.second:
                problems.append(f"{type(self.lock).__name__}: two threads were inside")
            self.first += 1
            self.second += 1


def with_timeouts(lock: Any) -> Callable[[], None]:
    def step() -> None:
        if lock.acquire(timeout=0.0005):
            lock.release()
        if lock.acquire(False):
            lock.release()

    return step


def conditions() -> Callable[[], None]:
    condition = forksafe.Condition()

    def step() -> None:
        with condition:
            condition.notify()
            condition.wait(0.001)

    return step


def events() -> Callable[[], None]:
    event = forksafe.Event()

    def step() -> None:
        event.set()
        event.wait(0.001)
        event.clear()

    return step


def locals_() -> Callable[[], None]:
    store = forksafe.local()

    def step() -> None:
        store.number = getattr(store, "number", 0) + 1
        if store.number % 100 == 0:
            del store.number

    return step


def pools() -> Callable[[], None]:
    pool: Any = forksafe.ConnectionPool(object, min_size=1, max_size=THREADS - 1)

    def step() -> None:
        with pool.connection(timeout=20):
            pass

    return step


def executors() -> Callable[[], None]:
    executor: Any = forksafe.ThreadPoolExecutor(2)

    def step() -> None:
        if sum(executor.map(abs, range(-5, 0))) != 15:
            problems.append("ThreadPoolExecutor: a wrong result")
        executor.submit(int).cancel()

    return step


def short_lived_threads() -> None:
    """Thread tokens are made and given up."""
    pair = Pair(forksafe.Lock())
    thread = threading.Thread(target=pair.step)
    thread.start()
    thread.join()


def forks(lock: Any) -> Callable[[], None]:
    """The child takes what a thread of its parent may hold, and leaves."""

    def step() -> None:
        pid = os.fork()
        if pid == 0:
            with lock:
                os._exit(0)
        if os.waitpid(pid, 0)[1]:
            problems.append("fork: a child failed")
        time.sleep(0.01)

    return step


def parts() -> dict[str, list[Callable[[], None]]]:
    shared = forksafe.Lock()
    locks: list[AbstractContextManager[Any]] = [
        forksafe.Lock(), forksafe.RLock(), forksafe.Lock(on_orphan=int), forksafe.Lock(hold=True),
        forksafe.Semaphore(1), forksafe.BoundedSemaphore(1),
    ]  # fmt: skip
    return {
        "pairs": [Pair(lock).step for lock in locks],
        "timeouts": [with_timeouts(forksafe.Lock()), with_timeouts(forksafe.RLock()), conditions(), events()],
        "more": [locals_(), pools(), executors(), short_lived_threads],
        "forks": [forks(shared), Pair(shared).step],
    }


def run(name: str, steps: list[Callable[[], None]], seconds: float) -> None:
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        mine = steps[number % len(steps) :] + steps[: number % len(steps)]
        if name == "forks":
            mine = mine[:1]  # one of the threads forks, or some, and the others hold what its children want
        while time.monotonic() < end and not problems:
            for step in mine:
                step()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
        if thread.is_alive():
            problems.append(f"{name}: a thread is stuck")


def main() -> int:
    seconds = float(sys.argv[1])
    sys.setswitchinterval(1e-5)
    everything = parts()
    for name, steps in everything.items():
        run(name, steps, seconds / len(everything))
    print("\n".join(sorted(set(problems))) or f"stress: {', '.join(everything)}: ok", flush=True)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
