"""find() and walk(): which descriptors a value has, so that they can be flagged before a fork. The only walk there is.

Guarantees: what has a fileno() has that one. Anything else is walked: what it keeps in attributes, slots, lists,
tuples, dicts, sets, deques and queues, and what those keep, nearest first, up to MOST_OBJECTS objects and MOST_DEEP
steps. An odd object never makes find() raise. What is closed gives nothing. type_plans.py says what is called on the
way, and what is not walked.

Not covered: a connection that a client has lent to a call under way in another thread is on that thread's stack, where
this does not look. The standard streams (0, 1 and 2) count only when they are the value itself. An event loop or a
selector's files are looked at only if it is the value itself.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from forksafe.descriptors import known_types
from forksafe.descriptors.type_plans import LEAVES, Finder, dotted, is_like_a_connection, plan_of
from forksafe.errors import UnknownDescriptorsWarning
from forksafe_core import atfork

__all__ = ["Fds", "Found", "find", "flag", "walk", "warn_unknown"]

Fds: TypeAlias = "Callable[[Any], int | Iterable[Any]] | Iterable[Any]"

MOST_OBJECTS = 10_000
MOST_DEEP = 32

_warned: weakref.WeakSet[type] = weakref.WeakSet()


@dataclass(frozen=True)
class Found:
    """What a walk found.

    descriptors: those that are open, nearest first. opaque: connections that hide theirs. unknown: True when the
    value is, or holds, a connection whose descriptors were not found. cut_short: True when there was too much to
    walk. files: names of files, all of whose descriptors belong to the value. objects: the value and what it leads
    to, nearest first; find() leaves it empty, because what is kept for long must not keep them alive.
    """

    descriptors: tuple[int, ...] = ()
    opaque: tuple[object, ...] = ()
    unknown: bool = False
    cut_short: bool = False
    files: tuple[str, ...] = ()
    objects: tuple[Any, ...] = field(default=(), repr=False, compare=False)


def find(value: object, at_fork: Found | None = None) -> Found:
    """The descriptors of a value: its fileno(), or those of the sockets and files that it keeps somewhere inside.

    at_fork: what was found in it before; then no object is called that another thread may be using.
    """
    return replace(walk(value, at_fork), objects=())


def walk(value: object, at_fork: Found | None = None) -> Found:
    """find(), and the objects that were looked at, in one walk."""
    walk = _Walk(value, at_fork is not None)
    level: list[Any] = [value]
    for _ in range(MOST_DEEP):
        level = walk.step(level)
        if not level:
            break
    else:
        walk.cut_short = True
    files = dict.fromkeys((*(at_fork.files if at_fork else ()), *walk.files))
    descriptors = {**walk.descriptors, **dict.fromkeys(known_types.open_on(files) if files else ())}
    unknown = bool(walk.opaque)
    if not unknown and not descriptors:
        unknown = walk.cut_short or (not walk.understood and is_like_a_connection(type(value)))
    objects = tuple(walk.seen.values())
    return Found(tuple(descriptors), tuple(walk.opaque), unknown, walk.cut_short, tuple(files), objects)


def flag(value: object, fds: Fds | None = None, at_fork: Found | None = None) -> Found:
    """Flag the descriptors of a value: in every child they will be tombstones. Returns those that were flagged.

    fds: where the value's descriptors are, if it is known better: a callable that is given the value, or an
    iterable; of ints, or of objects to look into. () says that there are none. Those closed since are left out.
    at_fork: as for find(). TypeError for fds that give something else.
    """
    found = find(value, at_fork) if fds is None else _given(value, fds)
    flagged = []
    for descriptor in found.descriptors:
        try:
            atfork.flag(descriptor)
        except (OSError, OverflowError):
            continue
        flagged.append(descriptor)
    return replace(found, descriptors=tuple(flagged))


def warn_unknown(value: object, what: str, found: Found | None = None, stacklevel: int = 3) -> None:
    """Warn, once for each type, that children would share this value's connection.

    what: the receiver of the value, such as "resource connect()". found: what find() said, to name what is opaque.
    """
    culprit = found.opaque[0] if found is not None and found.opaque else value
    if type(culprit) in _warned:
        return
    _warned.add(type(culprit))
    name = dotted(type(culprit))
    where = f"is a {name}" if culprit is value else f"({dotted(type(value))}) holds a {name}"
    more = f" (it leads to more than {MOST_OBJECTS} objects)" if found is not None and found.cut_short else ""
    warnings.warn(
        f"{what}: its value {where}, whose descriptors were not found{more}. A child keeps it alive, but shares its "
        "connection. Say where they are: fds=lambda value: [...] gives descriptors or objects with a fileno(), "
        f"fds=() says there are none, and forksafe.register_finder({name!r}, finder) settles it for the whole type",
        UnknownDescriptorsWarning,
        stacklevel=stacklevel,
    )


def _given(value: object, fds: Fds) -> Found:
    given = fds(value) if callable(fds) else fds
    try:
        items = [given] if isinstance(given, int) else list(given)
    except TypeError:
        raise TypeError(f"fds= gives descriptors, as in [connection.fileno()], not {given!r}") from None
    descriptors: dict[int, None] = {}
    files: dict[str, None] = {}
    for item in items:
        if isinstance(item, int) and not isinstance(item, bool):
            if item >= 0:
                descriptors[item] = None
            continue
        found = find(item)
        if found.unknown or type(item) in LEAVES:
            raise TypeError(f"fds= gives descriptors, or objects with a fileno(), not {item!r}")
        descriptors.update(dict.fromkeys(found.descriptors))
        files.update(dict.fromkeys(found.files))
    return Found(tuple(descriptors), files=tuple(files))


class _Walk:
    """One walk: what was seen, which also keeps it alive so that no id is given twice."""

    __slots__ = ("at_fork", "cut_short", "descriptors", "files", "opaque", "seen", "understood", "value")

    def __init__(self, value: object, at_fork: bool) -> None:
        self.value = value
        self.at_fork = at_fork
        self.seen: dict[int, object] = {}
        self.descriptors: dict[int, None] = {}
        self.files: list[str] = []
        self.opaque: list[object] = []
        self.understood = False  # an object was met of which it is known how to tell that nothing is open
        self.cut_short = False

    def step(self, level: list[Any]) -> list[Any]:
        """Look at these objects; returns what they refer to."""
        further: list[Any] = []
        seen = self.seen
        for obj in level:
            try:
                if type(obj) in LEAVES or id(obj) in seen:
                    continue
                if len(seen) >= MOST_OBJECTS:
                    self.cut_short = True
                    return []
                seen[id(obj)] = obj
                self._look(obj, further)
            except Exception:  # it is odd, or another thread changed it just now: then it gives nothing
                continue
        return further

    def _look(self, obj: Any, further: list[Any]) -> None:
        plan = plan_of(type(obj))
        if plan.only_as_value and obj is not self.value:
            return
        self.understood |= plan.understood
        if plan.finder is not None:
            if not (self.at_fork and plan.not_at_fork):
                self._call_finder(obj, plan.finder, further)
        elif plan.fileno:
            try:
                descriptor = obj.fileno()
            except Exception:  # closed, or never opened
                return
            self._take(descriptor, obj)
        else:
            parts = [part for look in plan.looks for part in look(obj)]
            if plan.opaque and not any(_has_descriptors(part) for part in parts):
                self.opaque.append(obj)
            further += parts

    def _call_finder(self, obj: Any, finder: Finder, further: list[Any]) -> None:
        try:
            given = list(finder(obj))
        except Exception:
            self.opaque.append(obj)
            return
        for item in given:
            if isinstance(item, known_types.File):
                self.files.append(item.path)
            elif isinstance(item, int):
                self._take(item, None)
            else:
                further.append(item)

    def _take(self, descriptor: object, obj: object) -> None:
        if not isinstance(descriptor, int) or isinstance(descriptor, bool):
            return
        if descriptor > 2 or (obj is self.value and descriptor >= 0):
            self.descriptors[descriptor] = None


def _has_descriptors(obj: Any) -> bool:
    plan = plan_of(type(obj))
    return plan.fileno or plan.finder is not None
