"""A process that holds locks and forks when told to: python -m benchmarks.forker WAY [LOCKS [RESIDENT]]

Contract: it builds its heap, writes one line of JSON ({"resident": bytes}) and then answers each line it reads:

    time     {"returned": ns, "first": ns, "reaped": ns}, each counted from the call of os.fork: until it returned
             here, until the child's first statement after it, until the child was reaped
    memory   {"private_dirty": bytes}: what the child alone had in memory just after the fork

and ends when its input does. WAY is one of WAYS. With RESIDENT, plain objects fill the heap up to that many bytes, so
that a fork copies as many page-table entries as that of a process with bigger locks.
In each WAY the same modules are imported beforehand, and the garbage collector is off with everything frozen. A child
does nothing but report and exit. An answer that takes longer than LIMIT seconds ends the process.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from time import perf_counter_ns  # the same clock in parent and child
from typing import Any

from benchmarks.footprint import resident_bytes

LIMIT = 120
SMAPS = "/proc/self/smaps_rollup"
FILLER = 400  # bytes; small enough for the interpreter's own allocator, as locks are


def make_nothing(count: int) -> None:
    """No forksafe in this process, and no locks."""


def import_forksafe(count: int) -> None:
    """forksafe's hooks, and no locks."""
    import forksafe  # noqa: F401 - here, not above: the other processes must not have it


def make_standard(count: int) -> object:
    return make_locks(threading.Lock, count)


def make_forksafe(count: int) -> object:
    import forksafe

    return make_locks(forksafe.Lock, count)


def make_weakset(count: int) -> object:
    """threading.Lock, each in a WeakSet, and reset in the child, as PyMongo and ddtrace do."""
    registry: weakref.WeakSet[Any] = weakref.WeakSet()

    def reset_all() -> None:
        for lock in registry:
            lock._at_fork_reinit()

    os.register_at_fork(after_in_child=reset_all)
    locks = make_locks(threading.Lock, count)
    for lock in locks:
        registry.add(lock)
    return locks, registry


WAYS: dict[str, Callable[[int], object]] = {
    "none": make_nothing,
    "imported": import_forksafe,
    "threading": make_standard,
    "forksafe": make_forksafe,
    "weakset": make_weakset,
}


def make_locks(make: Callable[[], Any], count: int) -> list[Any]:
    locks = [None] * count
    for index in range(count):
        locks[index] = make()
    return locks


def fill(resident: int) -> list[bytes]:
    filler = []
    while resident_bytes() < resident:
        filler += [bytes(FILLER) for _ in range(100)]
    return filler


def fork_for_time(reader: int, writer: int) -> dict[str, int]:
    began = perf_counter_ns()
    pid = os.fork()
    if not pid:
        os.write(writer, perf_counter_ns().to_bytes(8, "little"))
        os._exit(0)
    returned = perf_counter_ns()
    _, status = os.waitpid(pid, 0)
    reaped = perf_counter_ns()
    check(status)
    first = int.from_bytes(os.read(reader, 8), "little")
    return {"returned": returned - began, "first": first - began, "reaped": reaped - began}


def fork_for_memory(reader: int, writer: int) -> dict[str, int]:
    pid = os.fork()
    if not pid:
        os.write(writer, os.read(os.open(SMAPS, os.O_RDONLY), 4000))  # less than a pipe takes at once
        os._exit(0)
    check(os.waitpid(pid, 0)[1])
    for line in os.read(reader, 4000).splitlines():
        if line.startswith(b"Private_Dirty:"):
            return {"private_dirty": int(line.split()[1]) * 1024}
    raise RuntimeError(f"no Private_Dirty in {SMAPS}")


def check(status: int) -> None:
    if status:
        raise RuntimeError(f"the child ended with {os.waitstatus_to_exitcode(status)}")


def main(way: str, count: str = "0", resident: str = "0") -> None:
    signal.alarm(LIMIT)  # children do not inherit it: the command that started this one ends them
    warnings.simplefilter("ignore")  # some interpreters warn of forks, and would do so in the timed part
    heap = WAYS[way](int(count)), fill(int(resident))
    gc.collect()
    gc.disable()
    gc.freeze()
    pipe = os.pipe()
    os.set_blocking(pipe[0], False)
    say({"resident": resident_bytes()})
    for line in sys.stdin:
        signal.alarm(LIMIT)
        say({"time": fork_for_time, "memory": fork_for_memory}[line.strip()](*pipe))
    del heap


def say(answer: dict[str, int]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
