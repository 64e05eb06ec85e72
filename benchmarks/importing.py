"""What `import forksafe` costs, over a bare interpreter, in two ways: a whole process, and the statement alone.

Each value is that of a fresh interpreter, and all candidates take turns. The first row is the time from starting the
interpreter until it has ended, compared with one that does nothing. The second row is the time that the statement
itself takes, as the interpreter measures it. `import threading` is shown beside it: a program with locks pays for that
anyway. All of them read bytecode from a cache of their own, which is filled beforehand.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from time import perf_counter_ns

from benchmarks.footprint import ROOT
from benchmarks.measure import DIFFERENCE, Measure, Row, Trial, interleave
from benchmarks.report import Report, Table

SUMMARY = "what importing forksafe costs"

LIMIT = 60
BARE = "bare interpreter"
STATEMENTS = {BARE: "pass", "import forksafe": "import forksafe", "import threading": "import threading"}
PROGRAM = """
import signal
signal.alarm({limit})
from time import perf_counter_ns
began = perf_counter_ns()
{statement}
print(perf_counter_ns() - began)
"""


def started(statement: str, cache: str) -> Measure:
    """Milliseconds that an interpreter lives which executes this, and those that it needs for the statement."""
    command = [sys.executable, "-c", PROGRAM.format(limit=LIMIT, statement=statement)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache

    def measure() -> tuple[float, float]:
        began = perf_counter_ns()
        done = subprocess.run(command, cwd=ROOT, env=environment, close_fds=False, stdout=subprocess.PIPE, check=True)
        return (perf_counter_ns() - began) / 1e6, int(done.stdout) / 1e6

    return measure


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="interpreters for each candidate (default: 101, quick: 11)")


def run(options: argparse.Namespace) -> Report:
    rounds = options.rounds or (11 if options.quick else 101)
    rows = [
        Row("start and end of an interpreter", "ms", BARE, "diff <= 10 ms", DIFFERENCE),
        Row("the statement", "ms", BARE, compare=DIFFERENCE),
    ]
    with tempfile.TemporaryDirectory() as cache:
        runs = {name: started(statement, cache) for name, statement in STATEMENTS.items()}
        for measure in runs.values():
            measure()  # fills the cache
        interleave([Trial(rows, runs, rounds)], options.seed)
    notes = [f"Medians of {rounds} interpreters each; diff: the median of each round's difference to the bare one."]
    table = Table("import", rows, list(STATEMENTS))
    return Report("import", [table], notes, {"rounds": rounds, "quick": options.quick, "seed": options.seed})
