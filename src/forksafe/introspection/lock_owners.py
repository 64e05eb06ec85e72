"""Lock owners: what refers to a lock, in words, and which of the locks that the collector knows belong to Python.

Guarantees: nothing is taken, and no property or other code of the program is run.
"""

from __future__ import annotations

import gc
import threading
from collections import deque
from types import BuiltinMethodType, CellType, FrameType, FunctionType, ModuleType
from typing import Any

from forksafe.introspection.static import attributes_of, dict_of, name_of

__all__ = ["COLLECTIONS", "NO_OWNERS", "describe", "is_bookkeeping", "locks_of_threads", "with_its_owners"]

COLLECTIONS: tuple[type, ...] = (list, tuple, set, frozenset)
# A module's dictionary is an object of its own, and CPython 3.12's _asyncio would show objects that it has freed.
# Deques are conditions' waiters, and a lock's bound methods have the lock.
NO_OWNERS: tuple[type, ...] = (ModuleType, deque, BuiltinMethodType)


def is_bookkeeping(owner: Any) -> bool:
    """Whether it is a lock of the import system, or a lock's entry in a report; as an object or as its dictionary."""
    kind = type(owner)
    if issubclass(kind, dict):
        keys = dict.keys(owner)
        return {"wakeup", "owner", "waiters"} <= keys or {"lock", "found", "since"} <= keys
    return kind.__name__ in ("_ModuleLock", "HeldLock")


def locks_of_threads() -> set[int]:
    """The id()s of locks that threads have. threading renews them itself, and a thread's own is held while it lives."""
    threads = [*threading.enumerate(), *threading._dangling]  # type: ignore[attr-defined]
    return {id(value) for thread in threads for value in vars(thread).values()}


def describe(owner: Any, lock: Any) -> str:
    """Where a lock was found: module.name, or the class of its owner with the attribute."""
    kind = type(owner)
    if issubclass(kind, dict):
        return _in_dictionary(owner, lock)
    if kind is FrameType:
        return f"a local variable of {owner.f_code.co_name}()"
    if issubclass(kind, COLLECTIONS):
        return _in_collection(owner)
    name = next((name for name, value in attributes_of(owner) if value is lock), "")
    return f"{name_of(kind)}.{name}" if name else name_of(kind)


def _in_dictionary(owner: dict[Any, Any], lock: Any) -> str:
    name = next((str(key) for key, value in list(dict.items(owner)) if value is lock), "?")
    module = dict.get(owner, "__name__")
    if type(module) is str:
        return f"{module}.{name}"
    if "__module__" in dict.keys(owner):
        classes = [each for each in gc.get_referrers(owner) if issubclass(type(each), type)]
        return f"{name_of(classes[0])}.{name}" if classes else f"{dict.get(owner, '__module__')}.{name}"
    holders = _instances_with(owner)
    return f"{name_of(type(holders[0]))}.{name}" if holders else f"a dictionary's {name!r}"


def _in_collection(owner: Any) -> str:
    owners = _owners_of(owner)
    return f"{describe(owners[0], owner)}[...]" if owners else f"in a {type(owner).__name__}"


def with_its_owners(owner: Any) -> list[Any]:
    """An owner of a lock; if it is a dictionary, also the instance of that; if it is a collection, also its owners."""
    kind = type(owner)
    if issubclass(kind, dict):
        return [owner, *_instances_with(owner)]
    if issubclass(kind, COLLECTIONS):
        return [owner, *(each for holder in _owners_of(owner) for each in with_its_owners(holder))]
    return [owner]


def _instances_with(dictionary: dict[Any, Any]) -> list[Any]:
    return [each for each in gc.get_referrers(dictionary) if dict_of(each) is dictionary]


def _owners_of(collection: Any) -> list[Any]:
    """Without collections, frames and functions, for their names would say no more."""
    no_owners = (*COLLECTIONS, *NO_OWNERS, FrameType, FunctionType, CellType)
    return [each for each in gc.get_referrers(collection) if not issubclass(type(each), no_owners)]
