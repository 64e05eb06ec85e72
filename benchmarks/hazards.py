"""What the diagnostics cost: locks while they are tracked, and forks while a guard is on.

Locks are compared with threading's, as in `locks`: one row with track_locks() off, one with it on. A fork with its
child's end, by a program with one thread and nothing open, is compared with the same fork without a guard.
"""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Callable, Sequence
from time import perf_counter_ns

import forksafe
from benchmarks.measure import Row, Trial, interleave, loop_trial, make_loop
from benchmarks.report import Report, Table

SUMMARY = "what the diagnostics cost: tracked locks, guarded forks"

LOCKS = ("threading", "forksafe", "tracked")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="rounds of the shortest measurements (default: 201, quick: 31)")


def lock_trials(rounds: int, round_ns: int) -> list[Trial]:
    trials = []
    for kind in ("Lock", "RLock"):
        plain = make_loop("with lock: pass", lock=getattr(threading, kind)())
        ours = make_loop("with lock: pass", lock=getattr(forksafe, kind)())
        loops = {"threading": plain, "forksafe": ours, "tracked": _tracked(getattr(forksafe, kind)())}
        trials.append(loop_trial(Row(f"{kind}: with", "ns", goal="tracked <= 1.0"), loops, rounds, round_ns))
    return trials


def _tracked(lock: object) -> Callable[[int], int]:
    loop = make_loop("with lock: pass", lock=lock)

    def tracked(count: int) -> int:
        forksafe.track_locks()
        try:
            return loop(count)
        finally:
            forksafe.track_locks(False)

    return tracked


def _fork() -> Sequence[float]:
    began = perf_counter_ns()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return ((perf_counter_ns() - began) / 1000,)


def _guarded_fork() -> Sequence[float]:
    with forksafe.guard("raise"):
        return _fork()


def run(options: argparse.Namespace) -> Report:
    rounds = options.rounds or (31 if options.quick else 201)
    trials = lock_trials(rounds, round_ns=300_000 if options.quick else 1_000_000)
    fork = Row("fork and wait for the child", "us", baseline="plain")
    trials.append(Trial([fork], {"plain": _fork, "guarded": _guarded_fork}, rounds))
    interleave(trials, options.seed)
    tables = [
        Table("locks", [row for trial in trials[:-1] for row in trial.rows], LOCKS),
        Table("forks", [fork], ("plain", "guarded")),
    ]
    notes = [f"Medians of {rounds} rounds; ratio: the median of each round's ratio to the first."]
    return Report("hazards", tables, notes, {"rounds": rounds, "quick": options.quick, "seed": options.seed})
