"""Threads that tests have running, and the locks that these may hold."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import forksafe

LOCKS: dict[str, tuple[Any, Any]] = {
    "Lock": (forksafe.Lock, threading.Lock),
    "RLock": (forksafe.RLock, threading.RLock),
}


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


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()
