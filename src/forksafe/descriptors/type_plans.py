"""How the objects of a type are looked at by search.py, worked out once for each type; and register_finder().

Guarantees: nothing is imported, and of an object nothing is called but fileno() and finders: no property, no other
method, no `__getattr__`.

Not walked: modules, classes, functions, methods, frames and generators; weak references, loggers, threads and
executors, because what they lead to belongs to others.

A connection written in C that has no fileno() is opaque, until register_finder() says where its descriptors are.
"""

from __future__ import annotations

import collections
import functools
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from forksafe.descriptors import known_types

__all__ = ["LEAVES", "Plan", "dotted", "is_like_a_connection", "plan_of", "register_finder"]

Finder: TypeAlias = Callable[[Any], Iterable[object]]

LEAVES = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None), type, types.FunctionType})
_NEVER_INTO = (
    type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType,
    types.FrameType, types.TracebackType, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType,
    types.CellType, weakref.ReferenceType, property, staticmethod, classmethod,
)  # fmt: skip
_PYTHONS_OWN = {*sys.stdlib_module_names, "builtins", "forksafe", "forksafe_core"}
_POINTER = tuple.__itemsize__


@dataclass(frozen=True)
class Plan:
    """What to do with the objects of a type.

    finder: tells their descriptors. fileno: they have a fileno(). looks: functions that list what they refer to.
    only_as_value: they are looked at only if they are the value itself. not_at_fork: the finder may have to wait for
    another thread. understood: it is known how to tell that nothing is open. opaque: a connection that shows nothing.
    """

    finder: Finder | None = None
    fileno: bool = False
    only_as_value: bool = False
    not_at_fork: bool = False
    understood: bool = False
    opaque: bool = False
    looks: tuple[Callable[[Any], Iterable[Any]], ...] = ()


_type = type
_finders: dict[type | str, Finder] = {}
_finders.update(known_types.FINDERS)
_plans: weakref.WeakKeyDictionary[type, Plan] = weakref.WeakKeyDictionary()


def register_finder(type: type | str, finder: Finder) -> None:
    """Say where objects of a type, and of its subclasses, have their descriptors.

    type: a class, or its dotted name such as "MySQLdb.connections.Connection", so that it need not be imported.
    finder(obj) yields descriptors (ints) and further objects to look into; nothing when obj is closed. It may be
    called at every fork, by whichever thread forks. If it raises, obj is opaque. A later call replaces the finder.
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


def plan_of(cls: type) -> Plan:
    plan = _plans.get(cls)
    if plan is None:
        plan = _plans[cls] = _make_plan(cls)
    return plan


def _make_plan(cls: type) -> Plan:
    names = [dotted(base) for base in cls.__mro__]
    only_as_value = not known_types.ONLY_AS_VALUE.isdisjoint(names)
    for base, name in zip(cls.__mro__, names, strict=True):
        finder = _finders.get(base) or _finders.get(name)
        if finder is not None:
            not_at_fork = name in known_types.NOT_AT_FORK and finder is known_types.FINDERS.get(name)
            return Plan(finder=finder, only_as_value=only_as_value, not_at_fork=not_at_fork, understood=True)
    if issubclass(cls, _NEVER_INTO):
        return Plan()
    if callable(getattr(cls, "fileno", None)):
        return Plan(fileno=True, understood=True)
    late = not known_types.LATE.isdisjoint(names)
    if not known_types.NEVER_INTO.isdisjoint(names):
        return Plan(understood=late)
    opaque = not known_types.OPAQUE.isdisjoint(names) or (not late and _hides_a_connection(cls))
    return Plan(only_as_value=only_as_value, understood=late, opaque=opaque, looks=tuple(_looks(cls.__mro__)))


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


def is_like_a_connection(cls: type) -> bool:
    if issubclass(cls, _NEVER_INTO) or _package_of(cls) in _PYTHONS_OWN:
        return False
    return any(callable(getattr(cls, name, None)) for name in ("close", "aclose", "disconnect", "cursor"))


def _package_of(cls: type) -> str:
    return cls.__module__.partition(".")[0]


def dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
