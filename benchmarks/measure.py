"""How everything here is measured: side by side, in many short rounds, compared round by round.

Contract
  - In a round every row that is due runs its candidates once, right after each other, in an order that changes.
  - A row's result is the median over the rounds of one round's comparison with the baseline (a ratio, or a
    difference). A slow second of the machine slows both sides of a few comparisons, and the median drops those.
  - Rows that measure a loop also run an empty one, as a candidate called EMPTY; its median is subtracted.
  - The garbage collector is off while rounds run.
"""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median, quantiles
from time import perf_counter_ns
from typing import Any

EMPTY = "empty loop"

RATIO = "ratio"
DIFFERENCE = "difference"

Measure = Callable[[], Sequence[float]]


@dataclass
class Row:
    """What was measured of one thing: a value per candidate and round."""

    label: str
    unit: str
    baseline: str = "threading"
    goal: str = ""
    compare: str = RATIO
    values: dict[str, list[float]] = field(default_factory=dict)

    @property
    def overhead(self) -> float:
        return median(self.values[EMPTY]) if EMPTY in self.values else 0.0

    def net(self, name: str) -> list[float]:
        """The candidate's value in each round, without the empty loop's."""
        overhead = self.overhead
        return [value - overhead for value in self.values[name]]

    def median(self, name: str) -> float:
        return median(self.net(name))

    def comparisons(self, name: str) -> list[float]:
        """The candidate against the baseline, round by round."""
        pairs = zip(self.net(name), self.net(self.baseline), strict=True)
        if self.compare == DIFFERENCE:
            return [mine - base for mine, base in pairs]
        return [mine / base for mine, base in pairs if base]

    def compared(self, name: str) -> float:
        return median(self.comparisons(name) or [float("nan")])

    def quartiles(self, name: str) -> list[float]:
        """The comparison's 25 %, 50 % and 75 % marks: how far rounds disagree."""
        comparisons = self.comparisons(name)
        return quantiles(comparisons, n=4) if len(comparisons) > 1 else comparisons * 3


@dataclass
class Trial:
    """Candidates to run side by side. Each run gives one value for each of the rows."""

    rows: Sequence[Row]
    runs: Mapping[str, Measure]
    rounds: int

    def run_once(self, name: str) -> None:
        for row, value in zip(self.rows, self.runs[name](), strict=True):
            row.values.setdefault(name, []).append(value)


def interleave(trials: Sequence[Trial], seed: int) -> None:
    """Run every trial its number of rounds, spread evenly over one run of all of them."""
    order = random.Random(seed)
    total = max(trial.rounds for trial in trials)
    collecting = gc.isenabled()
    gc.disable()
    try:
        for number in range(total):
            due = [t for t in trials if number * t.rounds // total != (number + 1) * t.rounds // total]
            for trial in order.sample(due, len(due)):
                for name in order.sample(list(trial.runs), len(trial.runs)):
                    trial.run_once(name)
    finally:
        if collecting:
            gc.enable()


def make_loop(body: str, before: str = "", **names: Any) -> Callable[[int], int]:
    """A function of a count: the nanoseconds that `body` takes that many times. `before` runs first, untimed.

    Each loop is compiled for itself: interpreters from 3.11 on specialise bytecode to the types it meets, so a loop
    that candidates shared would be specialised to the first of them.
    """
    source = (
        f"def loop(count, {''.join(name + ', ' for name in names)}repeat=repeat, clock=clock):\n"
        f"    {before or 'pass'}\n"
        "    began = clock()\n"
        "    for _ in repeat(None, count):\n"
        f"        {body}\n"
        "    return clock() - began\n"
    )
    space: dict[str, Any] = {"repeat": repeat, "clock": perf_counter_ns}
    exec(source, space)
    values = tuple(names.values())
    loop = space["loop"]
    return lambda count: loop(count, *values)


def loop_trial(row: Row, loops: Mapping[str, Callable[[int], int]], rounds: int, round_ns: int) -> Trial:
    """A trial of loops in nanoseconds per pass; as many passes a round as the baseline makes in round_ns."""
    everyone = {EMPTY: make_loop("pass"), **loops}
    for loop in everyone.values():
        loop(2000)  # so that no candidate's first round is the one where the interpreter warms up
    each = min(loops[row.baseline](1000) for _ in range(5)) / 1000
    count = max(100, int(round_ns / each))

    def measured(loop: Callable[[int], int]) -> Measure:
        return lambda: (loop(count) / count,)

    return Trial([row], {name: measured(loop) for name, loop in everyone.items()}, rounds)


def by_version(goals: Mapping[tuple[int, int], str]) -> str:
    """The goal of the newest version that is not newer than this interpreter."""
    known = [version for version in goals if version <= sys.version_info[:2]]
    return goals[max(known)] if known else ""
