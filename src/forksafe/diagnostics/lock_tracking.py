"""track_locks(): from now on forksafe's locks record where they are made and when they are taken.

Guarantees: while it is off it costs nothing. While it is on, making a lock records the line that makes it, and taking
a lock records the time; hazards() reports both.

Why that survives fork: children go on tracking, and have their parent's records.

Not covered: where a lock was made before, and where an instance of a subclass was made.
"""

from __future__ import annotations

import os
import sys
import threading
from _weakref import ref
from typing import Any

from forksafe.arguments import check_bool
from forksafe.locks import Lock
from forksafe_core import atfork, holder, set_recorder

__all__ = ["is_tracking", "made_at", "track_locks"]

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_MACHINERY = tuple(
    os.path.join(os.path.dirname(os.__file__), name) for name in ("threading.py", "queue.py", "logging", "concurrent")
)
_changing = Lock()
_made: dict[int, tuple[Any, str]] = {}  # by id: a weak reference, and where
_on = False


def track_locks(on: bool = True) -> None:
    """Have forksafe's locks record where they are made and when they are taken; on=False ends that. TypeError else."""
    global _on
    check_bool(on, "track_locks(on)")
    with _changing:
        _on = on
        set_recorder(_record, _describe) if on else set_recorder(None)
        atfork.set_tracking(on)


def is_tracking() -> bool:
    return _on


def made_at(lock: Any) -> str:
    """The file, line and function in which a Lock or RLock was made; "" if locks were not tracked then."""
    found = _made.get(id(lock))
    return found[1] if found is not None and found[0]() is lock else ""


def _describe(lock: Any) -> str:
    """For the lock's repr: the thread that holds it, and where it was made. No lock is taken for it."""
    ident, made = atfork.ident_of(holder(lock)), made_at(lock)
    thread = threading._active.get(ident)  # type: ignore[attr-defined]
    held = "" if not ident else f"held by {thread.name if thread is not None else f'thread {ident}'}"
    return ", ".join(filter(None, (held, made and f"made at {made}")))


def _record(lock: Any) -> None:
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_HERE, *_MACHINERY)):
        frame = frame.f_back
    if frame is None:
        return
    key = id(lock)
    where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    _made[key] = ref(lock, lambda _: _made.pop(key, None)), where
