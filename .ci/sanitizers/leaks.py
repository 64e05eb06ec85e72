"""Nothing grows: each of the compiled types is made, used and dropped in a loop, and what is there is counted.

    python leaks.py [LOOPS]

Counted are references (sys.gettotalrefcount, in a debug build of Python only), the interpreter's memory blocks, and
the bytes of C's malloc, from glibc or from AddressSanitizer's runtime. A loop passes when it grows by less than one for
ten turns in one of a few rounds: caches grow once, leaks in every round. Exit status 1 and a line for each that leaks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import forksafe
from forksafe_core import Entry, Slots, Waiter, atfork, set_recorder

ROUNDS = 4


class MallInfo(ctypes.Structure):
    """struct mallinfo2 of malloc.h."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]  # fmt: skip


def references() -> int:
    """All but those to the type of Cython's own functions: each closure that is freed leaves it one (Cython 3.3)."""
    modules = [module for name, module in sys.modules.items() if name.startswith("_cython_")]
    types = [getattr(module, "cython_function_or_method", None) for module in modules]
    total: int = sys.gettotalrefcount()
    return total - sum(sys.getrefcount(each) for each in types if each is not None)


def meters() -> dict[str, Callable[[], int]]:
    found: dict[str, Callable[[], int]] = {"blocks": sys.getallocatedblocks}
    if hasattr(sys, "gettotalrefcount"):
        found["references"] = references
    library: Any = ctypes.CDLL(None)
    if hasattr(library, "__sanitizer_get_current_allocated_bytes"):
        allocated = library["__sanitizer_get_current_allocated_bytes"]
        allocated.restype = ctypes.c_size_t
        found["bytes"] = lambda: int(allocated())
    elif hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = MallInfo
        found["bytes"] = lambda: int(library.mallinfo2().uordblks)
    return found


def fails(error: type[BaseException], call: Callable[[], object]) -> None:
    try:
        call()
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


def use_lock(make: Callable[[], Any]) -> Callable[[], None]:
    def turn() -> None:
        lock = make()
        with lock:
            lock.acquire(False) and lock.release()
        enter, leave = lock.__enter__, lock.__exit__
        enter()
        leave(None, None, None)
        lock.acquire(timeout=0.01)
        lock.release()
        repr(lock)

    return turn


def use_errors() -> None:
    lock, semaphore = forksafe.Lock(), forksafe.BoundedSemaphore()
    fails(RuntimeError, lock.release)
    fails(ValueError, semaphore.release)
    fails(TypeError, lambda: lock.__enter__(1))  # type: ignore[call-arg]
    fails(TypeError, lambda: forksafe.Lock(1))  # type: ignore[call-arg,arg-type]
    fails(ValueError, lambda: lock.acquire(timeout=-2))
    fails(ValueError, lambda: forksafe.Semaphore(-1))
    fails(OSError, lambda: atfork.flag(10**6))


def use_condition() -> None:
    condition = forksafe.Condition(forksafe.RLock())
    with condition, condition:
        condition.wait(0)
        condition.notify_all()


def use_local() -> None:
    store: Any = forksafe.local()
    store.value = [store]  # a cycle through it
    del store


def use_local_in_thread() -> None:
    store: Any = forksafe.local()
    thread = threading.Thread(target=lambda: setattr(store, "value", object()))
    thread.start()
    thread.join()


def use_slots() -> None:
    slots = Slots(0, 2)
    waiter = Waiter()
    slots.enqueue(waiter)
    slots.cancel(waiter)
    slots.reserve([])
    slots.add(Entry(object()))
    slots.figures()
    slots.snapshot()
    slots.close()


def use_pool() -> None:
    pool: Any = forksafe.ConnectionPool(object, max_size=2)
    with pool.connection() as one, pool.connection():
        fails(forksafe.PoolTimeout, lambda: pool.getconn(timeout=0))
        repr(one)
    pool.connection().__enter__()  # a lease that is dropped gives back
    assert pool.stats().pool_available == 2
    pool.close()


def use_descriptors() -> None:
    ends = os.pipe()
    for end in ends:
        atfork.flag(end)
        atfork.is_flagged(end)
    atfork.tombstone(ends[0])
    atfork.flagged()
    for end in ends:
        atfork.unflag(end)
        os.close(end)


made: list[object] = []
record = made.append  # one for all turns: each that was ever set is kept for good


def use_recorder() -> None:
    set_recorder(record)
    forksafe.Lock()
    set_recorder(None)
    assert len(made) == 1
    made.clear()


executor: Any = forksafe.ThreadPoolExecutor(2)


def use_futures() -> None:
    futures = [executor.submit(divmod, 7, number) for number in range(3)]
    fails(ZeroDivisionError, futures[0].result)
    assert [future.result() for future in futures[1:]] == [(7, 0), (3, 1)]
    futures[0].add_done_callback(id)
    list(executor.map(abs, range(3)))
    futures[0].exception().__traceback__ = None  # its frames refer to the future


TURNS: dict[str, Callable[[], None]] = {
    "Lock": use_lock(forksafe.Lock),
    "Lock(on_orphan=)": use_lock(lambda: forksafe.Lock(on_orphan=int)),
    "Lock(hold=)": use_lock(lambda: forksafe.Lock(hold=True)),
    "RLock": use_lock(forksafe.RLock),
    "Semaphore": use_lock(forksafe.Semaphore),
    "BoundedSemaphore": use_lock(forksafe.BoundedSemaphore),
    "errors": use_errors,
    "Condition": use_condition,
    "local": use_local,
    "local in a thread": use_local_in_thread,
    "Slots, Entry, Waiter": use_slots,
    "ConnectionPool": use_pool,
    "descriptors": use_descriptors,
    "recorder": use_recorder,
    "futures": use_futures,
}


def growth(turn: Callable[[], None], loops: int, measured: dict[str, Callable[[], int]]) -> dict[str, int]:
    """The least growth of each number over some rounds, after one that fills caches."""
    least = dict.fromkeys(measured, sys.maxsize)
    before = dict.fromkeys(measured, 0)
    for number in range(ROUNDS + 1):
        for _ in range(loops):
            turn()
        gc.collect()
        now = {name: read() for name, read in measured.items()}
        if number:
            least = {name: min(least[name], now[name] - before[name]) for name in measured}
        before = now
    return least


def main() -> int:
    loops = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    measured, failed = meters(), False
    for name, turn in TURNS.items():
        grown = growth(turn, loops, measured)
        limits = {what: loops * 16 // 10 if what == "bytes" else loops // 10 for what in grown}
        leaks = any(grown[what] >= limits[what] for what in grown)
        failed |= leaks
        if leaks:
            print(f"leaks: {name}: {loops} turns made {', '.join(f'{n} more {what}' for what, n in grown.items())}")
    executor.shutdown()
    if not failed:
        print(f"leaks: none of {len(TURNS)} loops grew; counted: {', '.join(measured)}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
