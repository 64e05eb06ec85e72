"""What a fork costs: with very many locks alive, and with none.

Each candidate is a process of its own that builds its locks, stays alive and forks when told to (forker.py), because
the time of a fork depends on the whole heap. Rounds go through those processes in turn. Equal processes also differ,
each for as long as it lives, so all of them are started anew several times.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

from benchmarks.footprint import ROOT
from benchmarks.forker import LIMIT, SMAPS
from benchmarks.measure import DIFFERENCE, Measure, Row, Trial, interleave
from benchmarks.report import Report, Table

SUMMARY = "what a fork costs with very many locks alive"

PADDED = "forksafe, padded"
AGAIN = "threading again"
WEAKSET = "WeakSet reset"
MB = 2**20


class Forker:
    """A process of this command's own that forks when told to. Waits are bounded; leaving ends it and its children."""

    def __init__(self, *arguments: str, module: str = "benchmarks.forker") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # so that killpg() reaches a child that hangs
        )
        self.arguments = arguments
        self.resident = 0

    def __enter__(self) -> Forker:
        try:
            self.resident = self._answer().get("resident", 0)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def ask(self, command: str) -> dict[str, int]:
        assert self.process.stdin
        self.process.stdin.write(command.encode() + b"\n")
        return self._answer()

    def _answer(self) -> dict[str, int]:
        assert self.process.stdout
        line, deadline = b"", time.monotonic() + LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(deadline - time.monotonic()):
                    raise TimeoutError(f"forker {self.arguments} did not answer in {LIMIT} seconds")
                piece = self.process.stdout.read(4096)
                if not piece:
                    raise RuntimeError(f"forker {self.arguments} ended")
                line += piece
        answer: dict[str, int] = json.loads(line)
        return answer

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(LIMIT)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class Forkers:
    """The forkers of one run; leaving ends all of them."""

    def __init__(self) -> None:
        self.members: dict[str, Forker] = {}

    def __enter__(self) -> Forkers:
        return self

    def __exit__(self, *ignored: object) -> None:
        for member in self.members.values():
            member.__exit__(None, None, None)

    def add(self, name: str, *arguments: str) -> Forker:
        self.members[name] = Forker(*arguments).__enter__()
        return self.members[name]


def timed(forker: Forker) -> Measure:
    def measure() -> Sequence[float]:
        answer = forker.ask("time")
        return [answer[what] / 1000 for what in ("returned", "first", "reaped")]

    return measure


def private_dirty(forker: Forker) -> Measure:
    return lambda: (forker.ask("memory")["private_dirty"] / MB,)


def timing_rows(baseline: str, goal: str = "") -> list[Row]:
    return [
        Row("until it returns in the parent", "us", baseline, goal),
        Row("until the child's first statement", "us", baseline),
        Row("until the child is reaped", "us", baseline),
    ]


class Results:
    """The rows of all generations."""

    def __init__(self) -> None:
        self.times = timing_rows("threading", "<= 1.05")
        self.dirty = Row("Private_Dirty of the child", "MB", goal="diff < 1 MB", compare=DIFFERENCE)
        self.resident = Row("resident before the fork", "MB", compare=DIFFERENCE)
        self.hooks = timing_rows("not imported")


def run_generation(results: Results, ways: Mapping[str, Sequence[str]], rounds: int, seed: int) -> None:
    """Start the processes, in an order that changes, and fork them in turn."""
    order = random.Random(seed)
    with Forkers() as forkers:
        for name in order.sample(list(ways), len(ways)):
            forkers.add(name, *ways[name])
        holders = {name: forkers.members[name] for name in ways}
        for name, holder in holders.items():
            results.resident.values.setdefault(name, []).append(holder.resident / MB)
        bare = {"not imported": forkers.add("not imported", "none"), "imported": forkers.add("imported", "imported")}
        trials = [
            Trial(results.times, {name: timed(holder) for name, holder in holders.items()}, rounds),
            Trial(results.hooks, {name: timed(forker) for name, forker in bare.items()}, rounds * 5),
        ]
        if os.path.exists(SMAPS):
            trials.append(Trial([results.dirty], {name: private_dirty(each) for name, each in holders.items()}, 2))
        interleave(trials, seed)


def ways_to_hold(locks: int) -> dict[str, Sequence[str]]:
    """forker.py's arguments for each candidate."""
    with Forkers() as forkers:
        resident = forkers.add("threading", "threading", str(locks)).resident
    return {
        "threading": ("threading", str(locks)),
        "forksafe": ("forksafe", str(locks)),
        PADDED: ("forksafe", str(locks), str(resident)),
        AGAIN: ("threading", str(locks)),
        WEAKSET: ("weakset", str(locks)),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--locks", type=int, help="locks alive at the fork (default: 1,000,000, quick: 100,000)")
    parser.add_argument("--rounds", type=int, help="rounds with each set of processes (default: 6, quick: 3)")
    parser.add_argument(
        "--generations", type=int, help="how often the processes are started anew (default: 9, quick: 3)"
    )


def run(options: argparse.Namespace) -> Report:
    if not hasattr(os, "fork"):
        return Report("fork", [], ["This platform has no fork."])
    locks = options.locks or (100_000 if options.quick else 1_000_000)
    rounds = options.rounds or (3 if options.quick else 6)
    generations = options.generations or (3 if options.quick else 9)
    results, ways = Results(), ways_to_hold(locks)
    for generation in range(generations):
        run_generation(results, ways, rounds, options.seed + generation)
    with_locks = [row for row in (*results.times, results.dirty, results.resident) if row.values]
    tables = [
        Table(f"os.fork with {locks:,} locks", with_locks, list(ways)),
        Table("os.fork without locks", results.hooks, ["not imported", "imported"]),
    ]
    settings = {"locks": locks, "rounds": rounds, "generations": generations, "seed": options.seed}
    return Report("fork", tables, notes(rounds, generations), settings)


def notes(rounds: int, generations: int) -> list[str]:
    return [
        f"Medians of {generations} x {rounds} rounds (without locks: five times as many). The processes are started",
        f"anew {generations} times: the place of their memory matters too, and '{AGAIN}' shows how much.",
        "A fork copies the page tables: the more memory is resident, the longer it takes. forksafe's locks need less",
        f"than threading's; '{PADDED}' therefore holds plain objects beside its locks, up to what is resident",
        "in threading's process, and so shows forksafe's own cost.",
        f"'{WEAKSET}': threading.Lock in a WeakSet, each reset by a hook in the child, as PyMongo and ddtrace do.",
    ]
