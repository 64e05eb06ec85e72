"""Adapters: what protect() knows of each type.

Guarantees: an object's adapter is that of its class, or of the nearest base that has one. At one class,
register_adapter() has precedence over forksafe's own adapters, whichever came first. The adapters of a package are
imported when a class of that package is first met, from the file of that name in this folder or from its alias.

Why that survives fork: protect() looks up every type it meets before the fork. A type that is first met in a child is
looked up there.

Not covered: the adapter of a virtual subclass (abc.ABCMeta.register()).
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["OPEN", "Adapter", "Flag", "adapter_of", "register_adapter"]

Flag = Callable[[object], object]


@dataclass(frozen=True)
class Adapter:
    """What can be done for objects of one type. An adapter with no functions says that the type needs nothing.

    parts: the objects it consists of that have adapters of their own.
    held: called in the thread that forks, before the fork, or in the child of a fork that ran no hooks. True if
    that thread provably holds the object: then it is not reset.
    reset: called in the child, after its parts have been reset.
    connections: what it has open now and a child must not use: descriptors, or objects that contain some. Called when
    the object is protected and before each fork.
    watch: called with the object and a function when it is protected. Passes each connection that the object makes
    from then on to the function, at once. Returns what undoes that.
    """

    parts: Callable[[Any], Iterable[Any]] | None = None
    held: Callable[[Any], bool] | None = None
    reset: Callable[[Any], object] | None = None
    connections: Callable[[Any], Iterable[object]] | None = None
    watch: Callable[[Any, Flag], Callable[[], object]] | None = None


# The file that has the adapters of a package, where its name is not the package's.
_ALIASES = {
    "_thread": "threading",
    "concurrent": "concurrent_futures",
    "forksafe_core": "forksafe",
    "functools": "threading",
    "joblib": "loky",
    "queue": "threading",
}

_registered: dict[type | str, Adapter] = {}  # by register_adapter()
_own: dict[type | str, Adapter] = {}  # by the files in this folder
_imported: set[str] = {"builtins"}  # packages
_by_type: weakref.WeakKeyDictionary[type, Adapter | None] = weakref.WeakKeyDictionary()  # what adapter_of() found
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
    """Tell protect() what to do for instances of a type and its subclasses; see Adapter. The last one given counts.

    type: a class, or its dotted name such as "sqlalchemy.engine.base.Engine", so that it need not be imported.
    TypeError for anything else, and for functions that are not callable.
    """
    global _by_type
    if not isinstance(type, (_type, str)) or (isinstance(type, str) and "." not in type):
        raise TypeError(f"register_adapter() takes a type first, or its dotted name, not {type!r}")
    given = {"parts": parts, "held": held, "reset": reset, "connections": connections, "watch": watch}
    for what, function in given.items():
        if function is not None and not callable(function):
            raise TypeError(f"register_adapter({what}=...) takes a callable, not {function!r}")
    _registered[type] = Adapter(parts, held, reset, connections, watch)
    _by_type = weakref.WeakKeyDictionary()


def adapter_of(obj: Any) -> Adapter | None:
    """The adapter of an object's type, or of its nearest base that has one; OPEN for another type with a fileno()."""
    cls, known = type(obj), _by_type  # a registration replaces it
    try:
        return known[cls]
    except KeyError:
        adapter = known[cls] = _find(cls)
        return adapter


def _find(cls: type) -> Adapter | None:
    for base in cls.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        package = name.partition(".")[0]
        if package not in _imported:
            _import_adapters(package)
        for adapters in (_registered, _own):
            adapter = adapters.get(base) or adapters.get(name)
            if adapter is not None:
                return adapter
    return OPEN if callable(getattr(cls, "fileno", None)) else None


def _import_adapters(package: str) -> None:
    module = f"{__package__}.{_ALIASES.get(package, package)}"
    try:
        if package.isidentifier():
            _own.update(getattr(importlib.import_module(module), "ADAPTERS", {}))
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    _imported.add(package)


def _locks_of(obj: Any) -> list[Any]:
    return [value for value in list(getattr(obj, "__dict__", {}).values()) if adapter_of(value) not in (None, OPEN)]


OPEN = Adapter(_locks_of, connections=lambda obj: [obj])  # psycopg's connections have a lock, for one
