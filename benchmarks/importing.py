"""What `import forksafe` adds to the start of an interpreter.

Contract: each value is the time from starting a fresh interpreter until it has ended; the comparison is with one that
does nothing. `import threading` is shown beside: whoever needs locks pays that much anyway. All of them read bytecode
from a cache of their own, filled beforehand, whatever the environment says about writing bytecode.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from time import perf_counter_ns

from benchmarks.footprint import ROOT
from benchmarks.measure import DIFFERENCE, Measure, Row, Trial

LIMIT = 60.0
BARE = "bare interpreter"
IMPORTS = {BARE: "pass", "import forksafe": "import forksafe", "import threading": "import threading"}


def started(code: str, cache: str) -> Measure:
    command = [sys.executable, "-c", code]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = cache

    def measure() -> tuple[float]:
        began = perf_counter_ns()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, close_fds=False)
        watchdog = threading.Timer(LIMIT, process.kill)  # wait(LIMIT) polls, and would measure its steps
        watchdog.start()
        status = process.wait()
        took = perf_counter_ns() - began
        watchdog.cancel()
        watchdog.join()
        if status:
            raise RuntimeError(f"{command} ended with {status}")
        return (took / 1e6,)

    return measure


def import_row() -> Row:
    return Row("start and end of an interpreter", "ms", BARE, "diff <= 10 ms", DIFFERENCE)


def import_trial(row: Row, rounds: int, cache: str) -> Trial:
    """cache: an empty directory that lasts as long as the rounds."""
    measures = {name: started(code, cache) for name, code in IMPORTS.items()}
    for measure in measures.values():
        measure()  # fills the cache
    return Trial([row], measures, rounds)
