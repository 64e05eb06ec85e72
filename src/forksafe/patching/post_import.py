"""Post-import hooks: callbacks that get a module once its code has run, as PEP 369 has them.

Guarantees: a module that is there is passed on at once, one that comes later as soon as its code has run, before the
`import` that asked for it goes on; again when it is reloaded. The import itself is the interpreter's: the installed
finders find the module, and its own loader, which stays its loader, loads it. What a callback raises is reported to
sys.unraisablehook, and the import goes on.

Not covered: a module that another thread is importing at the moment of register(); one that a class loads
(built-in and frozen modules), unless it is there already.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeAlias

from forksafe_core import atfork

__all__ = ["call", "register", "unregister"]

Callback: TypeAlias = Callable[[ModuleType], object]

_callbacks: dict[str, list[Callback]] = {}  # by the module's name


class _Finder:
    """The first of sys.meta_path: has the others find a module that has callbacks, and wraps its loading."""

    def __init__(self) -> None:
        self.active: set[tuple[int, str]] = set()  # another finder may ask all of sys.meta_path, this one included

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        key = (threading.get_ident(), name)
        if name not in _callbacks or key in self.active:
            return None
        self.active.add(key)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    _wrap(spec.loader)
                    return spec
            return None
        finally:
            self.active.discard(key)


_finder = _Finder()


def register(name: str, callback: Callback) -> None:
    """Call callback(module) when the module of this name is there and its code has run."""
    _callbacks.setdefault(name, []).append(callback)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    module = sys.modules.get(name)
    if module is not None:
        call(callback, module)


def unregister(callbacks: Iterable[Callback]) -> None:
    """These are called no more."""
    gone = set(map(id, callbacks))
    for name, registered in list(_callbacks.items()):
        registered[:] = [callback for callback in registered if id(callback) not in gone]
        if not registered:
            del _callbacks[name]
    if not _callbacks and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def call(callback: Callable[[Any], object], argument: Any) -> None:
    """Call it, and report what it raises to sys.unraisablehook: the program goes on."""
    try:
        callback(argument)
    except Exception as error:
        atfork.write_unraisable(error, callback)


def _wrap(loader: Any) -> None:
    """Have this loader call the callbacks. An attribute of the object, so that it is still the loader it was."""
    if isinstance(loader, type) or "exec_module" in getattr(loader, "__dict__", {}):
        return
    load = getattr(loader, "exec_module", None)
    if load is None:
        return

    def exec_module(module: ModuleType) -> None:
        load(module)
        if getattr(loader, "name", None) == module.__name__:  # else it loads others too
            vars(loader).pop("exec_module", None)
        for callback in list(_callbacks.get(module.__name__, ())):
            call(callback, module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        return
