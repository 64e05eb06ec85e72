"""The gate that forks and quiesce() go through one at a time, and the locks that they hold (hold=True).

Guarantees: a thread waits at the gate for at most GATE_TIMEOUT seconds, so a hook that never returns does not stop the
forks of other threads for ever. Locks with hold=True are taken without deadlock, in whatever order other threads nest
them, each within its hold_timeout. A ForkHazardWarning names each lock that could not be taken in time.

Why that survives fork: gate and locks are forksafe's own. A child finds them free of threads that vanished.
"""

from __future__ import annotations

import threading
import time

from forksafe.errors import ForkHazardWarning
from forksafe.locks import RLock
from forksafe_core import atfork, held_across_forks, hold_timeout, holder

__all__ = [
    "lock_across_forks",
    "lock_gate",
    "tokens_at_gate",
    "unlock_across_forks",
    "unlock_gate",
    "warn_of_hazard",
    "warn_of_overdue",
]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any

    _Overdue = list[tuple[Any, int]]  # locks that could not be taken in time, and the idents of their holders

GATE_TIMEOUT = 10.0

_gate = RLock()
_at_gate: list[int] = []  # tokens of the threads that wait for it


def lock_gate() -> bool:
    """Make the forks of other threads wait. unlock_gate() takes what this returns."""
    me = atfork.token()
    _at_gate.append(me)
    try:
        return bool(_gate.acquire(timeout=GATE_TIMEOUT))
    finally:
        _at_gate.remove(me)


def unlock_gate(locked: bool) -> None:
    if locked:
        _gate.release()


def tokens_at_gate() -> list[int]:
    """In a child, those of threads that vanished at the gate are still among them."""
    return list(_at_gate)


def lock_across_forks() -> tuple[list[Any], _Overdue]:
    """Take the locks made with hold=True, but for those that this thread has. Returns the ones taken and the overdue.

    While it has some it waits for another only briefly, then releases all and begins with that one, so that no order in
    which other threads nest them can deadlock.
    """
    locks = [lock for lock in held_across_forks() if holder(lock) != atfork.token()]
    start = time.monotonic()
    patience = 0.001
    overdue: _Overdue = []
    while True:
        held: list[Any] = []
        busy = None
        for lock in locks:
            ident = atfork.ident_of(holder(lock))
            left = start + (hold_timeout(lock) or 0) - time.monotonic()
            if not _acquire(lock, min(left, patience) if held else left):
                busy = lock
                break
            held.append(lock)
        if busy is None:
            return held, overdue
        unlock_across_forks(held)
        locks.remove(busy)
        if left <= 0 or not held:
            overdue.append((busy, ident))
        else:
            locks.insert(0, busy)
        patience = min(patience * 2, 0.1)


def unlock_across_forks(held: list[Any]) -> None:
    for lock in reversed(held):
        lock.release()


def _acquire(lock: Any, timeout: float) -> bool:
    try:
        return bool(lock.acquire(timeout=timeout) if timeout > 0 else lock.acquire(False))
    except BaseException as error:  # of its repair, or of a signal handler: it is not taken
        atfork.write_unraisable(error, lock)
        return False


def warn_of_hazard(message: str, where: object, stacklevel: int = 4) -> None:
    """Issue a ForkHazardWarning from a hook. With -W error it is reported: nothing may stop a fork half-way."""
    import warnings  # here, for most programs never get here

    try:
        warnings.warn(message, ForkHazardWarning, stacklevel=stacklevel)
    except ForkHazardWarning as error:
        atfork.write_unraisable(error, where)


def warn_of_overdue(overdue: _Overdue) -> None:
    for lock, ident in overdue:
        name = next((thread.name for thread in threading.enumerate() if thread.ident == ident), "a thread that ended")
        message = (
            f"a fork went ahead without {lock!r}, which {name} held for longer than hold_timeout="
            f"{hold_timeout(lock):g} seconds: in the child it is free, and what it guards may be half changed"
        )
        warn_of_hazard(message, lock)
