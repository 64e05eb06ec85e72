"""Hazards that are locks: standard ones and forksafe's that another thread holds.

Guarantees: it finds every lock that is held at that moment and that some object refers to, with the place where it was
found, and its holder where that can be told. A threading.Lock does not name its holder: then it is the thread that has
the lock, or the object it belongs to, in a frame. Nothing is taken to find out.

Not covered: what only C code refers to, and what gc.freeze() has hidden from the collector. Locks that stand for an
event: those of conditions' waiters and of threads.
"""

from __future__ import annotations

import gc
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from forksafe import locks
from forksafe.diagnostics.hazard import Finders, Hazard, Severity
from forksafe.diagnostics.lock_tracking import made_at
from forksafe.introspection.exemptions import is_exempt
from forksafe.introspection.lock_owners import (
    COLLECTIONS,
    NO_OWNERS,
    describe,
    is_bookkeeping,
    locks_of_threads,
    with_its_owners,
)
from forksafe.introspection.stacks import frames_of, has_single_stack, other_threads, place_of
from forksafe_core import atfork, holder, taken_at

__all__ = ["FINDERS", "OURS", "RLOCKS", "TYPES", "HeldLock", "held_locks", "holder_of", "is_held"]

_Lock = type(threading._allocate_lock())  # type: ignore[attr-defined]
_RLock = type(threading._CRLock())  # type: ignore[attr-defined]
OURS = (locks.Lock, locks.RLock)
RLOCKS = (_RLock, locks.RLock)
TYPES = frozenset({_Lock, _RLock, *OURS})
_AT_ONCE = 20_000  # objects whose referents make one list
_OWNER = re.compile(r"owner=(\d+)")


@dataclass(frozen=True)
class HeldLock:
    """A lock that a thread other than this one holds, or whose holder cannot be told."""

    lock: Any
    found: str  # module.name, or module.Class.attribute
    thread: threading.Thread | None
    since: float | None
    made: str


def held_locks() -> list[HeldLock]:
    """The locks that other threads hold, without those that forksafe repairs in children."""
    if has_single_stack():
        return []
    others = other_threads()
    frames = {thread: list(frames_of(thread)) for thread in others}
    by_ident = {thread.ident: thread for thread in others}
    found = []
    for lock, owner in _held(frames):
        ident = holder_of(lock)
        if ident == threading.get_ident():
            continue
        thread = by_ident.get(ident) if ident else _holder_by_frames(lock, owner, frames)
        if ident == 0 and thread is None and type(lock) in OURS:
            continue  # it has been released
        if type(lock) not in OURS and any(map(is_exempt, (lock, *with_its_owners(owner)))):
            continue
        found.append(HeldLock(lock, describe(owner, lock), thread, _since(lock), _made(lock)))
    return found


def _held(frames: dict[threading.Thread, list[Any]]) -> Iterator[tuple[Any, Any]]:
    """Each lock that is held, with what refers to it."""
    of_threads = locks_of_threads()
    everywhere, untracked = _all_locks()
    held = {key: lock for key, lock in everywhere.items() if key not in of_threads and is_held(lock)}
    wanted = tuple(held.values())
    # Up to CPython 3.12 a frame that was asked for its variables keeps a dictionary of them.
    ours = {id(frame.f_locals) for stack in frames.values() for frame in stack if sys.version_info < (3, 13)}
    ours |= {id(held), id(everywhere), id(wanted), id(untracked)}
    owners: dict[int, list[Any]] = {}
    for owner in [*gc.get_referrers(*wanted), *untracked] if held else ():
        if issubclass(type(owner), (*NO_OWNERS, FrameType)) or id(owner) in ours:
            continue
        if is_bookkeeping(owner) or _are_variables(owner):
            continue
        for each in gc.get_referents(owner):
            if id(each) in held and type(each) in TYPES:
                owners.setdefault(id(each), []).append(owner)
    for key, found in owners.items():
        yield held[key], min(found, key=_rank_of)
    yield from _in_variables(frames, of_threads | owners.keys())


def _in_variables(frames: dict[threading.Thread, list[Any]], seen: set[int]) -> Iterator[tuple[Any, Any]]:
    """Locks that only variables of functions refer to, without those of conditions' waiters."""
    for stack in frames.values():
        for frame in stack:
            for name, value in list(frame.f_locals.items()):
                if type(value) in TYPES and id(value) not in seen and name != "waiter" and is_held(value):
                    seen.add(id(value))
                    yield value, frame


def _all_locks() -> tuple[dict[int, Any], list[Any]]:
    """By id(); and dictionaries with locks that the collector does not track. A few looks in bulk are far faster than
    one at each object."""
    objects = [each for each in gc.get_objects() if not issubclass(type(each), NO_OWNERS)]
    found, untracked = {}, []
    for n in range(0, len(objects), _AT_ONCE):
        referents = gc.get_referents(*objects[n : n + _AT_ONCE])
        found.update({id(each): each for each in referents if type(each) in TYPES})
        unknown = [each for each in referents if type(each) is dict and not gc.is_tracked(each)]
        untracked += [each for each in unknown if not TYPES.isdisjoint(map(type, list(each.values())))]
    found.update({id(each): each for each in gc.get_referents(*untracked) if type(each) in TYPES})
    return found, untracked


def _are_variables(owner: Any) -> bool:
    """Whether it is the variables of a frame that has ended and is kept, by a traceback for one."""
    if sys.version_info >= (3, 13) or type(owner) is not dict or "__name__" in owner:
        return False
    return any(type(each) is FrameType and each.f_code.co_filename != __file__ for each in gc.get_referrers(owner))


def _rank_of(owner: Any) -> int:
    """Lower for an owner whose name says more: a condition shares its owner's lock; collections say least."""
    kind = type(owner)
    if issubclass(kind, COLLECTIONS):
        return 2
    return int(issubclass(kind, threading.Condition) or (issubclass(kind, dict) and "_waiters" in dict.keys(owner)))


def is_held(lock: Any) -> bool:
    if type(lock) is _RLock:
        return _OWNER.search(repr(lock)).group(1) != "0"  # type: ignore[union-attr]
    return bool(lock.locked())


def holder_of(lock: Any) -> int:
    """The ident of the thread that holds it; 0 if that cannot be told."""
    if type(lock) in OURS:
        return atfork.ident_of(holder(lock))
    if type(lock) is _RLock:
        return int(_OWNER.search(repr(lock)).group(1))  # type: ignore[union-attr]
    return 0


def _holder_by_frames(lock: Any, owner: Any, frames: dict[threading.Thread, list[Any]]) -> threading.Thread | None:
    """The thread that has this lock, or the object that it belongs to, in its innermost frames."""
    wanted = {id(lock), *map(id, with_its_owners(owner))}
    depths = {}
    for thread, stack in frames.items():
        for depth, frame in enumerate(stack):
            if wanted & set(map(id, _objects_in(frame))):
                depths[thread] = depth
                break
    return min(depths, key=depths.__getitem__) if depths else None


def _objects_in(frame: FrameType) -> list[Any]:
    """What a function's variables refer to, and what its code names in its module."""
    module = frame.f_globals
    variables = [] if frame.f_locals is module else list(frame.f_locals.values())
    return variables + [module[name] for name in frame.f_code.co_names if name in module]


def _since(lock: Any) -> float | None:
    taken = taken_at(lock) if type(lock) in OURS else None
    return max(time.monotonic() - taken, 0.0) if taken is not None else None


def _made(lock: Any) -> str:
    return made_at(lock) if type(lock) in OURS else ""


def _hazards() -> Iterable[Hazard]:
    for held in held_locks():
        kind = "RLock" if type(held.lock) in RLOCKS else "Lock"
        what = f"{kind} {held.found}, held" + (f", made at {held.made}" if held.made else "")
        severity: Severity
        if type(held.lock) in OURS:
            severity, what = "note", f"forksafe.{what}"
            consequence = "free in the child; what it guards may be half changed"
            cure = "nothing, or make it with on_orphan= or hold=True if a child must not see that"
        else:
            severity, what = "danger", f"threading.{what}"
            consequence = "held for ever in the child: a thread that acquires it there hangs"
            cure = f"make it a forksafe.{kind}, call forksafe.protect() on it or its owner, or use forksafe run"
        yield Hazard(
            "lock",
            severity,
            what,
            consequence,
            cure,
            module=held.found.rpartition(".")[0],
            thread=held.thread.name if held.thread else "",
            where=place_of(frames_of(held.thread)) if held.thread else "",
            since=held.since,
        )


FINDERS: Finders = {_hazards: ("lock",)}
