"""What a value of one process costs to get: PerProcess, a hand-written comparison of os.getpid(), a plain attribute.

The values are made beforehand, so each pass only gets one. The attribute is that of an instance, and belongs to no
process: a child would get its parent's.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import forksafe
from benchmarks.measure import Row, interleave, loop_trial, make_loop
from benchmarks.report import Report, Table

SUMMARY = "what a value of one process costs to get"

BY_HAND, SUBJECT, ATTRIBUTE = "os.getpid()", "forksafe", "attribute"


class ByHand:
    """What libraries write: the value, and the process that made it."""

    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make
        self.pid: int | None = None
        self.value: object = None

    def __call__(self) -> object:
        if self.pid != os.getpid():
            self.value, self.pid = self.make(), os.getpid()
        return self.value


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="rounds of the measurements (default: 201, quick: 31)")


def run(options: argparse.Namespace) -> Report:
    rounds = options.rounds or (31 if options.quick else 201)
    row = Row("get the value", "ns", BY_HAND, "<= 0.50")
    loops = {
        BY_HAND: make_loop("get()", get=ByHand(object)),
        SUBJECT: make_loop("get()", get=forksafe.PerProcess(object)),
        ATTRIBUTE: make_loop("holder.value", holder=ByHand(object)),
    }
    interleave([loop_trial(row, loops, rounds, 300_000 if options.quick else 1_000_000)], options.seed)
    notes = [
        f"Medians of {rounds} rounds; ratio: the median of each round's ratio to the comparison of os.getpid().",
        f"ns: one pass of the loop, without the empty loop's {row.overhead:.1f} ns.",
    ]
    table = Table("PerProcess", [row], [BY_HAND, SUBJECT, ATTRIBUTE])
    return Report("per_process", [table], notes, {"rounds": rounds, "quick": options.quick, "seed": options.seed})
