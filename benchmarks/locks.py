"""What forksafe's locks cost next to threading's: to take, to wait for, to contend for, to create and to keep.

Peers are measured too where they are installed (pip install fastrlock pymongo ddtrace).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from benchmarks import contention, footprint
from benchmarks.measure import EMPTY, Row, Trial, by_version, interleave, loop_trial, make_loop
from benchmarks.peers import Maker, Provider, providers
from benchmarks.report import Report, Table

SUMMARY = "what a lock costs: taking, waiting, contending, creating, keeping"

WITH = by_version({(3, 10): "<= 0.50", (3, 13): "<= 0.65", (3, 14): "<= 0.80"})
CALLS = by_version({(3, 10): "<= 0.25", (3, 14): "<= 0.65"})

Loop = Callable[[int], int]


def with_loop(make: Maker) -> Loop:
    return make_loop("with lock: pass", lock=make())


def calls_loop(make: Maker) -> Loop:
    return make_loop("lock.acquire(); lock.release()", lock=make())


def bound_calls_loop(make: Maker) -> Loop:
    return make_loop("acquire(); release()", "acquire, release = lock.acquire, lock.release", lock=make())


def creation_loop(make: Maker) -> Loop:
    return make_loop("make()", make=make)


# label, kind, loop, goal
LOOPS: tuple[tuple[str, str, Callable[[Maker], Loop], str], ...] = (
    ("Lock: with", "Lock", with_loop, WITH),
    ("RLock: with", "RLock", with_loop, WITH),
    ("Lock: acquire(); release()", "Lock", calls_loop, CALLS),
    ("Lock: the same, bound methods", "Lock", bound_calls_loop, CALLS),
    ("RLock: acquire(); release()", "RLock", calls_loop, CALLS),
    ("RLock: the same, bound methods", "RLock", bound_calls_loop, CALLS),
    ("Semaphore: with", "Semaphore", with_loop, "<= 0.15"),
    ("BoundedSemaphore: with", "BoundedSemaphore", with_loop, "<= 0.15"),
    ("Lock: create and drop", "Lock", creation_loop, ""),
    ("RLock: create and drop", "RLock", creation_loop, ""),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="rounds of the shortest measurements (default: 201, quick: 31)")


def loop_trials(found: Sequence[Provider], rounds: int, round_ns: int) -> list[Trial]:
    trials = []
    for label, kind, make_its_loop, goal in LOOPS:
        loops = {each.name: make_its_loop(each.makers[kind]) for each in found if kind in each.makers}
        trials.append(loop_trial(Row(label, "ns", goal=goal), loops, rounds, round_ns))
    return trials


def run(options: argparse.Namespace) -> Report:
    rounds = options.rounds or (31 if options.quick else 201)
    pairs, crowds, seconds = max(5, rounds // 2), *((3, 0.25) if options.quick else (9, 1.0))
    found, peers = providers()
    trials = loop_trials(found, rounds, round_ns=300_000 if options.quick else 1_000_000)
    trials += contention.ping_pong_trials(found, pairs)
    trials += contention.crowd_trials(found, crowds, seconds)
    interleave(trials, options.seed)
    sizes = footprint.rows(found)
    rows = [row for trial in trials for row in trial.rows] + sizes
    empty = max(row.overhead for row in rows if EMPTY in row.values)
    notes = [
        peers,
        f"Medians of {rounds} rounds (ping-pong {pairs}, 4 threads {crowds} of {seconds:g} s).",
        "ratio: the median of each round's ratio to threading, in brackets for peers. Goals: forksafe's ratio,",
        f"or value where they say so. ns: one pass of the loop, without the empty loop's {empty:.1f} ns; or one turn.",
        "pymongo's lock is a threading.Lock: where only its use is measured, its ratio shows the noise.",
    ]
    table = Table("operation", rows, [each.name for each in found])
    return Report("locks", [table], notes, {"rounds": rounds, "quick": options.quick, "seed": options.seed})
