"""Threads that wait for each other: two in turns, and four that want the same lock.

Contract: each measurement starts its own threads, times only what happens once all of them run, waits for them at
most LIMIT seconds, and checks that the object did its job (every turn taken, no count lost).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

from benchmarks.measure import Measure, Row, Trial
from benchmarks.peers import Maker, Provider

LIMIT = 60.0
TURNS = 200
CROWD = 4


def run_threads(targets: Sequence[Callable[[], None]], also: Callable[[], None] = lambda: None) -> None:
    """Run these at the same time, each in a thread, and `also` here. RuntimeError if one fails or exceeds LIMIT."""
    ended = []

    def guarded(target: Callable[[], None]) -> None:
        target()
        ended.append(target)

    threads = [threading.Thread(target=guarded, args=(target,), daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    also()
    deadline = time.monotonic() + LIMIT
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if len(ended) != len(threads):
        raise RuntimeError(f"{len(threads) - len(ended)} of {len(threads)} threads failed or did not end")


def condition_ping_pong(make: Maker) -> Measure:
    """Nanoseconds for a turn: one notify, and the wait it ends."""
    condition = make()

    def measure() -> tuple[float]:
        turn = 0
        times = [0, 0]

        def play(mine: int, begin: Callable[[], object]) -> None:
            nonlocal turn
            begin()
            times[mine] = perf_counter_ns()
            for _ in range(TURNS):
                with condition:
                    while turn != mine:
                        condition.wait()
                    turn = 1 - mine
                    condition.notify()
            times[mine] = perf_counter_ns() - times[mine]

        begin = threading.Barrier(2).wait
        run_threads([lambda: play(0, begin), lambda: play(1, begin)])
        return (max(times) / (2 * TURNS),)

    return measure


def event_ping_pong(make: Maker) -> Measure:
    """Nanoseconds for a turn: one set, and the wait it ends."""
    events = make(), make()

    def measure() -> tuple[float]:
        times = [0, 0]
        events[0].set()
        events[1].clear()

        def play(mine: Any, other: Any, number: int, begin: Callable[[], object]) -> None:
            begin()
            began = perf_counter_ns()
            for _ in range(TURNS):
                mine.wait()
                mine.clear()
                other.set()
            times[number] = perf_counter_ns() - began

        begin = threading.Barrier(2).wait
        first, second = events
        run_threads([lambda: play(first, second, 0, begin), lambda: play(second, first, 1, begin)])
        return (max(times) / (2 * TURNS),)

    return measure


def crowd(make: Maker, seconds: float) -> Measure:
    """CROWD threads counting under one lock: million counts a second, and the least served one's share of the most."""
    lock = make()
    space: dict[str, Any] = {"lock": lock}
    # Compiled for each candidate, like measure.make_loop's loops and for the same reason.
    exec(
        "def work(state):\n"
        "    served = 0\n"
        "    while state.running:\n"
        "        with lock:\n"
        "            state.counter += 1\n"
        "        served += 1\n"
        "    return served\n",
        space,
    )
    work: Callable[[_Crowd], int] = space["work"]

    def measure() -> tuple[float, float]:
        state = _Crowd()
        served: list[int] = []
        begin = threading.Barrier(CROWD + 1)
        took = 0

        def one() -> None:
            begin.wait(LIMIT)
            served.append(work(state))

        def clock() -> None:
            nonlocal took
            begin.wait(LIMIT)
            began = perf_counter_ns()
            time.sleep(seconds)
            state.running = False
            took = perf_counter_ns() - began

        run_threads([one] * CROWD, clock)
        if state.counter != sum(served):
            raise RuntimeError(f"{lock!r} let threads in together: {sum(served) - state.counter} counts are lost")
        return state.counter * 1e3 / took, min(served) / max(served)

    return measure


class _Crowd:
    __slots__ = ("counter", "running")

    def __init__(self) -> None:
        self.counter = 0
        self.running = True


def ping_pong_trials(found: Sequence[Provider], rounds: int) -> list[Trial]:
    kinds = (("Condition", "wait and notify", condition_ping_pong), ("Event", "wait and set", event_ping_pong))
    trials = []
    for kind, what, play in kinds:
        runs = {each.name: play(each.makers[kind]) for each in found if kind in each.makers}
        trials.append(Trial([Row(f"{kind}: {what}, 2 threads", "ns", goal="<= 1.0")], runs, rounds))
    return trials


def crowd_trials(found: Sequence[Provider], rounds: int, seconds: float) -> list[Trial]:
    trials = []
    for kind in ("Lock", "RLock"):
        rows = [
            Row(f"{kind}: {CROWD} threads, counts", "M/s", goal=">= 1.4"),
            Row(f"{kind}: {CROWD} threads, least/most served", "", goal="value >= 0.6"),
        ]
        runs = {each.name: crowd(each.makers[kind], seconds) for each in found if kind in each.makers}
        trials.append(Trial(rows, runs, rounds))
    return trials
