"""What a lock weighs: what sys.getsizeof says, and what the process grows by when there are very many.

Contract: resident bytes are measured in a process of its own for each candidate, over COUNT locks kept in a list that
is allocated beforehand. They include what getsizeof does not show: malloc'ed parts, and the peers' registries.

python -m benchmarks.footprint PROVIDER KIND prints one such number.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.peers import Provider, provider

COUNT = 200_000
LIMIT = 120.0
ROOT = Path(__file__).resolve().parent.parent


def resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_per_lock(name: str, kind: str) -> float:
    make = provider(name).makers[kind]
    locks: list[object] = [None] * COUNT
    gc.collect()
    gc.disable()
    before = resident_bytes()
    for index in range(COUNT):
        locks[index] = make()
    return (resident_bytes() - before) / COUNT


def rows(found: Sequence[Provider]) -> list[Row]:
    """For Lock and RLock: sys.getsizeof, and resident bytes where /proc tells."""
    made = []
    for kind in ("Lock", "RLock"):
        makers = {each.name: each.makers[kind] for each in found if kind in each.makers}
        goal = "value == 32" if kind == "Lock" else ""
        sizes = {name: [float(sys.getsizeof(make()))] for name, make in makers.items()}
        made.append(Row(f"{kind}: sys.getsizeof", "B", goal=goal, values=sizes))
        if os.path.exists("/proc/self/statm"):
            resident = {name: [_in_a_process(name, kind) for _ in range(3)] for name in makers}
            made.append(Row(f"{kind}: resident, each of {COUNT:,}", "B", values=resident))
    return made


def _in_a_process(name: str, kind: str) -> float:
    command = [sys.executable, "-m", "benchmarks.footprint", name, kind]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, timeout=LIMIT, check=True, text=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    print(resident_per_lock(*sys.argv[1:3]))
