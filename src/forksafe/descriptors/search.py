"""find(): which descriptors a value has, so that they can be flagged before a fork.

Guarantees: what has a fileno() has that one. Anything else is walked: what it keeps in attributes, slots, lists,
tuples, dicts, sets, deques and queues, and what those keep, nearest first, up to MOST_OBJECTS objects and MOST_DEEP
steps. Nothing is called on the way but fileno() and finders: no property, no other method, no `__getattr__`.
An odd object never makes find() raise, and nothing is imported. What is closed gives nothing.

Not walked: modules, classes, functions, methods, frames and generators; weak references, loggers, threads and
executors, for what they lead to is others'; an event loop or a selector's files, unless it is the value itself. The
standard streams (0, 1 and 2) count only when they are the value itself. A connection that a client has lent to a
call under way in another thread is on that thread's stack, where this does not look.

A connection written in C that has no fileno() is opaque, until register_finder() says where its descriptors are.
"""

from __future__ import annotations

import collections
import functools
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from forksafe.descriptors import known_types as finders
from forksafe.errors import UnknownDescriptorsWarning
from forksafe_core import atfork

__all__ = ["Fds", "Found", "find", "flag", "reachable", "register_finder", "warn_unknown"]

Finder: TypeAlias = Callable[[Any], Iterable[object]]
Fds: TypeAlias = "Callable[[Any], int | Iterable[Any]] | Iterable[Any]"

MOST_OBJECTS = 10_000
MOST_DEEP = 32


@dataclass(frozen=True)
class Found:
    """What find() found.

    descriptors: those that are open, nearest first. opaque: connections that hide theirs. unknown: True when the
    value is, or holds, a connection whose descriptors were not found. cut_short: True when there was too much to
    walk. files: names of files, all of whose descriptors belong to the value.
    """

    descriptors: tuple[int, ...] = ()
    opaque: tuple[object, ...] = ()
    unknown: bool = False
    cut_short: bool = False
    files: tuple[str, ...] = ()


def find(value: object, at_fork: Found | None = None) -> Found:
    """The descriptors of a value: its fileno(), or those of the sockets and files that it keeps somewhere inside.

    at_fork: what was found in it before; then nobody is asked who could be busy in another thread.
    """
    walk = _walked(value, at_fork is not None)
    files = dict.fromkeys((*(at_fork.files if at_fork else ()), *walk.files))
    descriptors = tuple({**walk.descriptors, **dict.fromkeys(finders.open_on(files))} if files else walk.descriptors)
    unknown = bool(walk.opaque)
    if not unknown and not descriptors:
        unknown = walk.cut_short or (not walk.understood and _is_like_a_connection(value))
    return Found(descriptors, tuple(walk.opaque), unknown, walk.cut_short, tuple(files))


def reachable(value: object) -> list[object]:
    """What find() looks at: the value, and what it leads to, nearest first. Nobody is asked who could be busy."""
    return list(_walked(value, at_fork=True).seen.values())


def _walked(value: object, at_fork: bool) -> _Walk:
    walk = _Walk(value, at_fork)
    level: list[Any] = [value]
    for _ in range(MOST_DEEP):
        level = walk.step(level)
        if not level:
            return walk
    walk.cut_short = True
    return walk


def register_finder(type: type | str, finder: Finder) -> None:
    """Teach find() where objects of a type, and of its subclasses, have their descriptors.

    type: a class, or its dotted name such as "MySQLdb.connections.Connection", so that it need not be imported.
    finder(obj) yields descriptors (ints) and further objects to look into; nothing when obj is closed. It may be
    called at every fork, by whichever thread forks. One that raises leaves obj opaque. The last one given counts.
    TypeError or ValueError for bad input.
    """
    if isinstance(type, str):
        if "." not in type or not all(part.isidentifier() for part in type.split(".")):
            raise ValueError(f"register_finder() takes a class or its dotted name, as in 'package.Class', not {type!r}")
    elif not isinstance(type, _type):
        raise TypeError(f"register_finder() takes a class or its dotted name first, not {type!r}")
    if not callable(finder):
        raise TypeError(f"register_finder() takes a callable second, which yields descriptors, not {finder!r}")
    _finders[type] = finder
    _plans.clear()


def flag(value: object, fds: Fds | None = None, at_fork: Found | None = None) -> Found:
    """Flag the descriptors of a value: in every child they will be tombstones. Returns those that were flagged.

    fds: where the value's descriptors are, if it is known better: a callable that is given the value, or an
    iterable; of ints, or of objects to look into. () says that there are none. Those closed meanwhile are left out.
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
    return Found(tuple(flagged), found.opaque, found.unknown, found.cut_short, found.files)


def warn_unknown(value: object, what: str, found: Found | None = None, stacklevel: int = 3) -> None:
    """Warn, once for each type, that children would share this value's connection.

    what: who was given it, such as "resource connect()". found: what find() said, to name what is opaque.
    """
    culprit = found.opaque[0] if found is not None and found.opaque else value
    if type(culprit) in _warned:
        return
    _warned.add(type(culprit))
    name = _dotted(type(culprit))
    where = f"is a {name}" if culprit is value else f"({_dotted(type(value))}) holds a {name}"
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
        if found.unknown or type(item) in _LEAVES:
            raise TypeError(f"fds= gives descriptors, or objects with a fileno(), not {item!r}")
        descriptors.update(dict.fromkeys(found.descriptors))
        files.update(dict.fromkeys(found.files))
    return Found(tuple(descriptors), files=tuple(files))


class _Walk:
    """One find(): what was seen, which also keeps it alive so that no id is given twice."""

    __slots__ = ("at_fork", "cut_short", "descriptors", "files", "opaque", "seen", "understood", "value")

    def __init__(self, value: object, at_fork: bool) -> None:
        self.value = value
        self.at_fork = at_fork
        self.seen: dict[int, object] = {}
        self.descriptors: dict[int, None] = {}
        self.files: list[str] = []
        self.opaque: list[object] = []
        self.understood = False  # something was met of which it is known how to tell that nothing is open
        self.cut_short = False

    def step(self, level: list[Any]) -> list[Any]:
        """Look at these objects; returns what they refer to."""
        further: list[Any] = []
        seen = self.seen
        for obj in level:
            try:
                if type(obj) in _LEAVES or id(obj) in seen:
                    continue
                if len(seen) >= MOST_OBJECTS:
                    self.cut_short = True
                    return []
                seen[id(obj)] = obj
                self._look(obj, further)
            except Exception:  # it was changed meanwhile, or is odd: then it gives nothing
                continue
        return further

    def _look(self, obj: Any, further: list[Any]) -> None:
        plan = _plan_of(type(obj))
        if plan.only_as_value and obj is not self.value:
            return
        self.understood |= plan.understood
        if plan.finder is not None:
            if not (self.at_fork and plan.not_at_fork):
                self._ask(obj, plan.finder, further)
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

    def _ask(self, obj: Any, finder: Finder, further: list[Any]) -> None:
        try:
            given = list(finder(obj))
        except Exception:
            self.opaque.append(obj)
            return
        for item in given:
            if isinstance(item, finders.File):
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


@dataclass(frozen=True)
class _Plan:
    """What to do with the objects of a type; worked out once."""

    finder: Finder | None = None
    fileno: bool = False
    only_as_value: bool = False
    not_at_fork: bool = False
    understood: bool = False
    opaque: bool = False
    looks: tuple[Callable[[Any], Iterable[Any]], ...] = ()


_type = type
_finders: dict[type | str, Finder] = {}
_finders.update(finders.FINDERS)
_plans: weakref.WeakKeyDictionary[type, _Plan] = weakref.WeakKeyDictionary()
_warned: weakref.WeakSet[type] = weakref.WeakSet()

_LEAVES = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None), type, types.FunctionType})
_NEVER_INTO = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType,
    types.FrameType, types.TracebackType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType,
    types.CellType, weakref.ReferenceType, property, staticmethod, classmethod,
)  # fmt: skip
_PYTHONS_OWN = {*sys.stdlib_module_names, "builtins", "forksafe", "forksafe_core"}
_POINTER = tuple.__itemsize__


def _plan_of(cls: type) -> _Plan:
    plan = _plans.get(cls)
    if plan is None:
        plan = _plans[cls] = _make_plan(cls)
    return plan


def _make_plan(cls: type) -> _Plan:
    names = [_dotted(base) for base in cls.__mro__]
    only_as_value = not finders.ONLY_AS_VALUE.isdisjoint(names)
    for base, name in zip(cls.__mro__, names, strict=True):
        finder = _finders.get(base) or _finders.get(name)
        if finder is not None:
            not_at_fork = name in finders.NOT_AT_FORK and finder is finders.FINDERS.get(name)
            return _Plan(finder=finder, only_as_value=only_as_value, not_at_fork=not_at_fork, understood=True)
    if issubclass(cls, _NEVER_INTO):
        return _Plan()
    if callable(getattr(cls, "fileno", None)):
        return _Plan(fileno=True, understood=True)
    late = not finders.LATE.isdisjoint(names)
    if not finders.NEVER_INTO.isdisjoint(names):
        return _Plan(understood=late)
    opaque = not finders.OPAQUE.isdisjoint(names) or (not late and _hides_a_connection(cls))
    return _Plan(only_as_value=only_as_value, understood=late, opaque=opaque, looks=tuple(_looks(cls.__mro__)))


def _has_descriptors(obj: Any) -> bool:
    plan = _plan_of(type(obj))
    return plan.fileno or plan.finder is not None


def _looks(bases: tuple[type, ...]) -> Iterator[Callable[[Any], Iterable[Any]]]:
    """Functions that list what an object of a class with these bases refers to."""
    for base in bases:
        if base is dict:
            yield lambda obj: [*dict.values(obj), *dict.keys(obj)]
        elif base in (list, tuple, set, frozenset, collections.deque):
            yield lambda obj, iterate=base.__iter__: list(iterate(obj))  # type: ignore[misc]
        own = vars(base)
        members = [each for each in own.values() if isinstance(each, types.MemberDescriptorType)]
        if members:
            yield functools.partial(_members, members)
        if isinstance(own.get("__dict__"), types.GetSetDescriptorType):
            yield functools.partial(_attributes, own["__dict__"])


def _members(members: list[types.MemberDescriptorType], obj: Any) -> list[Any]:
    values = []
    for member in members:
        try:
            values.append(member.__get__(obj))
        except AttributeError:  # not set
            continue
    return values


def _attributes(descriptor: types.GetSetDescriptorType, obj: Any) -> list[Any]:
    return list(dict.values(descriptor.__get__(obj)))


def _hides_a_connection(cls: type) -> bool:
    """True for a C type of some library that has a close(), and more in it than Python is shown."""
    if not callable(getattr(cls, "close", None)):
        return False
    base: type = cls
    while base is not object and _package_of(base) not in _PYTHONS_OWN:
        below = base.__base__ or object
        own = vars(base)
        shown = sum(isinstance(each, types.MemberDescriptorType) for each in own.values())
        shown += ("__dict__" in own) + ("__weakref__" in own)
        if base.__basicsize__ - below.__basicsize__ > shown * _POINTER:
            return True
        base = below
    return False


def _is_like_a_connection(value: object) -> bool:
    cls = type(value)
    if issubclass(cls, _NEVER_INTO) or _package_of(cls) in _PYTHONS_OWN:
        return False
    return any(callable(getattr(cls, name, None)) for name in ("close", "aclose", "disconnect", "cursor"))


def _package_of(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def _dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
