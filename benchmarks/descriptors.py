"""What tombstones over very many descriptors cost a child, next to a C loop of close() over the same half of them.

Each candidate is a process of its own with the same descriptors open, which forks in turn with the others. The child
reports how long it took (burier.py). "nothing flagged" is the cost of a fork without flagged descriptors.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.fork import Forker
from benchmarks.measure import Measure, Row, Trial, interleave
from benchmarks.report import Report, Table

SUMMARY = "what tombstones over very many descriptors cost a child"

WAYS = {"C loop of close": "close", "tombstones": "tombstones", "nothing flagged": "none"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, help="descriptors to close, of twice as many (default: 10,000)")
    parser.add_argument("--rounds", type=int, help="forks of each process (default: 51, quick: 11)")


def possible(count: int) -> int:
    """As many as the limit of open files allows."""
    import resource

    return min(count, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 100) // 2)


def asked(forker: Forker) -> Measure:
    return lambda: (forker.ask("fork")["ns"] / 1000,)


def run(options: argparse.Namespace) -> Report:
    if not hasattr(os, "fork"):
        return Report("descriptors", [], ["This platform has no fork."])
    count = possible(options.count or 10_000)
    rounds = options.rounds or (11 if options.quick else 51)
    rows = []
    for kind, goal in (("sockets", "<= 1.50"), ("pipes", "<= 1.50")):
        row = Row(f"{count:,} of {2 * count:,} {kind}", "us", "C loop of close", goal)
        forkers = {name: Forker(way, kind, str(count), module="benchmarks.burier") for name, way in WAYS.items()}
        try:
            for forker in forkers.values():
                forker.__enter__()
            interleave([Trial([row], {name: asked(each) for name, each in forkers.items()}, rounds)], options.seed)
        finally:
            for forker in forkers.values():
                forker.__exit__(None, None, None)
        rows.append(row)
    notes = [
        f"Medians of {rounds} forks. A tombstone is two system calls: is it still the file that was flagged, and dup3.",
        "close alone asks nothing, and leaves the number to be reused.",
    ]
    settings = {"count": count, "rounds": rounds, "seed": options.seed}
    return Report("descriptors", [Table("in the child", rows, list(WAYS))], notes, settings)
