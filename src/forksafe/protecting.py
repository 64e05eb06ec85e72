"""protect(): objects of threading, queue and logging that exist already, made usable in children.

Guarantees: in a child, a protected standard lock is reinitialised unless the thread that forked provably held it:
an RLock names its owner; a Lock does not, so it is kept only where the forking process had no other thread. The
waiters that conditions and queues remember are forgotten, for their threads vanished. What a queue holds, an
event's flag and a semaphore's count stay.

Objects are held weakly and taken apart at the fork, so that what they are given later counts too. One registry of
adapters by type says what an object consists of; register_adapter() adds to it.

Not covered: data that was being changed when its holder vanished (forksafe.Lock(hold=True) is for that); a
queue.SimpleQueue, whose lock Python cannot reach (install() replaces the type).
"""

from __future__ import annotations

import functools
import logging
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from forksafe import locks
from forksafe.hooks import register_at_fork

__all__ = ["Adapter", "protect", "register_adapter", "unprotect"]

T = TypeVar("T")

_LockType = type(threading._allocate_lock())  # type: ignore[attr-defined]
_RLockType = type(threading._CRLock())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Adapter:
    """What can be done for objects of one type.

    parts: the objects it consists of that have adapters of their own.
    held: asked of the thread that forks (before the fork; in a child whose fork ran no hooks, there): does it
    provably hold this? Then it is left alone.
    reset: called in the child, when its parts have been dealt with.
    """

    parts: Callable[[Any], Iterable[Any]] | None = None
    held: Callable[[Any], bool] | None = None
    reset: Callable[[Any], object] | None = None


_adapters: dict[type, Adapter] = {}
_protected: dict[int, weakref.ref[Any]] = {}
_held_at_fork: set[int] | None = None  # ids; None where no `before` hook could look
_watching = False


def register_adapter(
    type: type,
    *,
    parts: Callable[[Any], Iterable[Any]] | None = None,
    held: Callable[[Any], bool] | None = None,
    reset: Callable[[Any], object] | None = None,
) -> None:
    """Teach protect() what to do for instances of a type and its subclasses; see Adapter. The last one given counts."""
    if not isinstance(type, _type):
        raise TypeError(f"register_adapter() takes a type first, not {type!r}")
    _adapters[type] = Adapter(parts, held, reset)


def protect(obj: T) -> T:
    """Make an object that exists already usable in children; returns it.

    Takes standard locks, conditions, events, semaphores, barriers, queues and logging handlers, and any object
    that keeps some of these in its attributes. On a class, as a decorator: each instance, once it is made.
    Objects are held weakly. TypeError if there is nothing that could be done.
    """
    if isinstance(obj, type):
        _protect_instances(obj)
        return obj
    if _adapter_of(obj) is None and not any(True for _ in _attributes(obj)):
        raise TypeError(_nothing_to_do(obj))
    _remember(obj)
    return obj


def unprotect(obj: T) -> T:
    """Undo protect(obj); returns it. ValueError if it is not protected."""
    reference = _protected.get(id(obj))
    if reference is None or reference() is not obj:
        raise ValueError(f"unprotect(): this {type(obj).__name__} is not protected")
    del _protected[id(obj)]
    return obj


def _remember(obj: Any) -> None:
    global _watching
    key = id(obj)
    try:
        _protected[key] = weakref.ref(obj, lambda _: _protected.pop(key, None))
    except TypeError:
        raise TypeError(
            f"protect(): a {type(obj).__name__} cannot be referred to weakly; add '__weakref__' to its __slots__, or "
            "protect the locks in it"
        ) from None
    if not _watching:
        _watching = True
        register_at_fork(before=_look, after_in_parent=_forget_look, after_in_child=_reset_all)


def _protect_instances(cls: type) -> None:
    make = cls.__init__  # type: ignore[misc]
    if not cls.__weakrefoffset__:
        raise TypeError(
            f"protect(): instances of {cls.__name__} cannot be referred to weakly; add '__weakref__' to its __slots__"
        )

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _remember(self)

    cls.__init__ = __init__  # type: ignore[misc]


def _nothing_to_do(obj: Any) -> str:
    name = f"{type(obj).__module__}.{type(obj).__qualname__}"
    if name == "_queue.SimpleQueue":
        return (
            "protect(): a queue.SimpleQueue keeps its lock where Python cannot reach it; make it after "
            "forksafe.install(), or use queue.Queue"
        )
    return (
        f"protect() knows nothing it could do for a {name}: it is no lock, condition, event, semaphore, barrier, "
        "queue or logging handler, and has none in its attributes; register_adapter() teaches it more"
    )


def _adapter_of(obj: Any) -> Adapter | None:
    for cls in type(obj).__mro__:
        if cls in _adapters:
            return _adapters[cls]
    return None


def _attributes(obj: Any) -> Iterable[Any]:
    """What an object of no known type keeps in its attributes and can be dealt with."""
    values = list(getattr(obj, "__dict__", {}).values())
    for cls in type(obj).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        names = (slots,) if isinstance(slots, str) else slots
        values += [getattr(obj, name, None) for name in names if name not in ("__dict__", "__weakref__")]
    return [value for value in values if _adapter_of(value) is not None]


def _taken_apart() -> list[Any]:
    """Every protected object and what it consists of, parts first."""
    found: list[Any] = []
    seen: set[int] = set()

    def visit(obj: Any) -> None:
        if id(obj) in seen:
            return
        seen.add(id(obj))
        adapter = _adapter_of(obj)
        parts = _attributes(obj) if adapter is None else adapter.parts(obj) if adapter.parts else ()
        for part in parts:
            visit(part)
        found.append(obj)

    for reference in list(_protected.values()):
        obj = reference()
        if obj is not None:
            visit(obj)
    return found


def _is_held(obj: Any) -> bool:
    adapter = _adapter_of(obj)
    return bool(adapter and adapter.held and adapter.held(obj))


def _look() -> None:
    global _held_at_fork
    _held_at_fork = {id(obj) for obj in _taken_apart() if _is_held(obj)}


def _forget_look() -> None:
    global _held_at_fork
    _held_at_fork = None


def _reset_all() -> None:
    seen = _held_at_fork
    _forget_look()
    for obj in _taken_apart():
        adapter = _adapter_of(obj)
        held = _is_held(obj) if seen is None else id(obj) in seen
        if adapter is not None and adapter.reset is not None and not held:
            adapter.reset(obj)


def _only_thread() -> bool:
    """True when no other thread can be holding anything, native ones included where that can be told."""
    try:
        return os.stat("/proc/self/task").st_nlink == 3
    except OSError:
        return threading.active_count() == 1


_type = type


def _register_standard_types() -> None:
    def reinit(lock: Any) -> None:
        lock._at_fork_reinit()

    def part(*names: str) -> Callable[[Any], list[Any]]:
        return lambda obj: [getattr(obj, name) for name in names if getattr(obj, name, None) is not None]

    def refill(barrier: Any) -> None:
        if barrier._state in (-1, 0, 1):  # a broken one stays broken
            barrier._state = barrier._count = 0

    nothing = Adapter()
    _adapters.update(dict.fromkeys((locks.Lock, locks.RLock, locks.Semaphore, locks.BoundedSemaphore), nothing))
    _adapters.update(dict.fromkeys((locks.Condition, locks.Barrier, locks.Event), Adapter(part("_lock", "_cond"))))
    # A Lock that was forked without hooks is left alone once others may hold it.
    register_adapter(_LockType, held=lambda lock: lock.locked() and _only_thread(), reset=reinit)
    register_adapter(_RLockType, held=lambda lock: lock._is_owned(), reset=reinit)
    register_adapter(threading._PyRLock, held=lambda lock: lock._is_owned(), reset=reinit)  # type: ignore[attr-defined]
    register_adapter(threading.Condition, parts=part("_lock"), reset=lambda condition: condition._waiters.clear())
    register_adapter(threading.Event, parts=part("_cond"))
    register_adapter(threading.Semaphore, parts=part("_cond"))
    register_adapter(threading.Barrier, parts=part("_cond"), reset=refill)
    register_adapter(queue.Queue, parts=part("mutex", "not_empty", "not_full", "all_tasks_done"))
    register_adapter(logging.Handler, parts=part("lock"))
    if sys.version_info < (3, 12):
        register_adapter(functools.cached_property, parts=part("lock"))


_register_standard_types()
