"""What protect() knows of types: which parts an object consists of, what a child must do, what must be dead there.

One registry by type or dotted name, so that nobody's package is imported to know of it; a subclass is what its nearest
known base is. register_adapter() adds to it. Here are the standard library's types, in library_adapters.py others'.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from forksafe import locks
from forksafe.introspection.threads import is_single_threaded

__all__ = ["OPEN", "Adapter", "Flag", "adapter_of", "drained", "part", "register_adapter"]

Flag = Callable[[object], object]

_LockType = type(threading._allocate_lock())  # type: ignore[attr-defined]
_RLockType = type(threading._CRLock())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Adapter:
    """What can be done for objects of one type.

    parts: the objects it consists of that have adapters of their own.
    held: asked of the thread that forks (before the fork; in a child whose fork ran no hooks, there): does it
    provably hold this? Then it is left alone.
    reset: called in the child, when its parts have been dealt with.
    connections: what it has open now and a child must not have: descriptors, or objects that have some inside. Asked
    when it is protected and before each fork.
    watch: called with the object and a function when it is protected: to be given every connection that the object
    makes from then on, at once. Returns what undoes that.
    """

    parts: Callable[[Any], Iterable[Any]] | None = None
    held: Callable[[Any], bool] | None = None
    reset: Callable[[Any], object] | None = None
    connections: Callable[[Any], Iterable[object]] | None = None
    watch: Callable[[Any, Flag], Callable[[], object]] | None = None


_adapters: dict[type | str, Adapter] = {}
_type = type


def register_adapter(
    type: type | str,
    *,
    parts: Callable[[Any], Iterable[Any]] | None = None,
    held: Callable[[Any], bool] | None = None,
    reset: Callable[[Any], object] | None = None,
    connections: Callable[[Any], Iterable[object]] | None = None,
    watch: Callable[[Any, Flag], Callable[[], object]] | None = None,
) -> None:
    """Teach protect() what to do for instances of a type and its subclasses; see Adapter. The last one given counts.

    type: a class, or its dotted name such as "sqlalchemy.engine.base.Engine", so that it need not be imported.
    """
    if not isinstance(type, (_type, str)) or (isinstance(type, str) and "." not in type):
        raise TypeError(f"register_adapter() takes a type first, or its dotted name, not {type!r}")
    given = {"parts": parts, "held": held, "reset": reset, "connections": connections, "watch": watch}
    for what, function in given.items():
        if function is not None and not callable(function):
            raise TypeError(f"register_adapter({what}=...) takes a callable, not {function!r}")
    _adapters[type] = Adapter(parts, held, reset, connections, watch)


def adapter_of(obj: Any) -> Adapter | None:
    """That of its type, or of the nearest base that has one; for anything open with a fileno(), one for that."""
    for cls in type(obj).__mro__:
        adapter = _adapters.get(cls) or _adapters.get(f"{cls.__module__}.{cls.__qualname__}")
        if adapter is not None:
            return adapter
    return OPEN if callable(getattr(type(obj), "fileno", None)) else None


def _locks_of(obj: Any) -> list[Any]:
    return [value for value in list(getattr(obj, "__dict__", {}).values()) if adapter_of(value) not in (None, OPEN)]


OPEN = Adapter(_locks_of, connections=lambda obj: [obj])  # psycopg's connections have a lock, for one


def drained(items: Any) -> list[Any]:
    """What lies in a queue, which is empty then. For a child: nobody else is there to put or to get."""
    taken = []
    with contextlib.suppress(queue.Empty):
        while True:
            taken.append(items.get_nowait())
    return taken


def part(*names: str) -> Callable[[Any], list[Any]]:
    """parts= for objects that keep them in these attributes."""
    return lambda obj: [getattr(obj, name) for name in names if getattr(obj, name, None) is not None]


def _reinit(lock: Any) -> None:
    lock._at_fork_reinit()


def _refill(barrier: Any) -> None:
    if barrier._state in (-1, 0, 1):  # a broken one stays broken
        barrier._state = barrier._count = 0


def _register_standard_types() -> None:
    nothing = Adapter()
    _adapters.update(dict.fromkeys((locks.Lock, locks.RLock, locks.Semaphore, locks.BoundedSemaphore), nothing))
    _adapters.update(dict.fromkeys((locks.Condition, locks.Barrier, locks.Event), Adapter(part("_lock", "_cond"))))
    # A Lock that was forked without hooks is left alone once others may hold it.
    register_adapter(_LockType, held=lambda lock: lock.locked() and is_single_threaded(), reset=_reinit)
    register_adapter(_RLockType, held=lambda lock: lock._is_owned(), reset=_reinit)
    register_adapter(threading._PyRLock, held=lambda lock: lock._is_owned(), reset=_reinit)  # type: ignore[attr-defined]
    register_adapter(threading.Condition, parts=part("_lock"), reset=lambda condition: condition._waiters.clear())
    register_adapter(threading.Event, parts=part("_cond"))
    register_adapter(threading.Semaphore, parts=part("_cond"))
    register_adapter(threading.Barrier, parts=part("_cond"), reset=_refill)
    register_adapter(queue.Queue, parts=part("mutex", "not_empty", "not_full", "all_tasks_done"))
    register_adapter(logging.Handler, parts=part("lock"))
    if sys.version_info < (3, 12):
        register_adapter(functools.cached_property, parts=part("lock"))


_register_standard_types()
