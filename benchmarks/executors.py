"""What a call by a ThreadPoolExecutor costs, next to concurrent.futures'.

The function does nothing, so that only the executor is measured: in a batch (all submitted, then all results read), by
map(), and one at a time (the next is submitted when the result of the last one is there). The executors live through
all rounds, with their threads started.
"""

from __future__ import annotations

import argparse
import concurrent.futures
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

import forksafe
from benchmarks.measure import Measure, Row, Trial, interleave
from benchmarks.report import Report, Table

SUMMARY = "what a call by an executor costs"

BARE, SUBJECT = "concurrent.futures", "forksafe"
TYPES = {BARE: concurrent.futures.ThreadPoolExecutor, SUBJECT: forksafe.ThreadPoolExecutor}
WORKERS = (1, 4)


def nothing(number: int) -> int:
    return number


def batch(executor: concurrent.futures.Executor, count: int) -> None:
    futures = [executor.submit(nothing, number) for number in range(count)]
    assert sum(future.result() for future in futures) == count * (count - 1) // 2


def by_map(executor: concurrent.futures.Executor, count: int) -> None:
    assert sum(executor.map(nothing, range(count))) == count * (count - 1) // 2


def one_at_a_time(executor: concurrent.futures.Executor, count: int) -> None:
    for number in range(count):
        executor.submit(nothing, number).result()


# What is done, the share of the tasks that it is done with, and the goal.
USES: list[tuple[str, Callable[..., None], int, str]] = [
    ("submit all, then read all", batch, 1, "<= 0.33"),
    ("map()", by_map, 1, "<= 0.33"),
    ("submit and wait, one by one", one_at_a_time, 10, "<= 0.75"),
]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="rounds of the measurements (default: 31, quick: 7)")
    parser.add_argument("--tasks", type=int, default=10_000, help="tasks in a round (default: 10000)")


def measure(executor: Any, use: Callable[..., None], count: int) -> Measure:
    def once() -> tuple[float]:
        begin = perf_counter_ns()
        use(executor, count)
        return ((perf_counter_ns() - begin) / count / 1000,)

    return once


def run(options: argparse.Namespace) -> Report:
    rounds = options.rounds or (7 if options.quick else 31)
    executors = {(name, size): make(size) for name, make in TYPES.items() for size in WORKERS}
    trials = []
    for size in WORKERS:
        for label, use, share, goal in USES:
            row = Row(f"{size} worker{'s' * (size > 1)}: {label}", "us", BARE, goal)
            count = max(1, options.tasks // share)
            runs = {name: measure(executors[name, size], use, count) for name in TYPES}
            trials.append(Trial([row], runs, rounds))
    try:
        for executor in executors.values():
            batch(executor, 100)
        interleave(trials, options.seed)
    finally:
        for executor in executors.values():
            executor.shutdown()
    rows = [row for trial in trials for row in trial.rows]
    notes = [f"Medians of {rounds} rounds; us for one of {options.tasks:,} tasks ({options.tasks // 10:,} one by one)."]
    return Report("executors", [Table("a call", rows, list(TYPES))], notes, {"rounds": rounds, "quick": options.quick})
