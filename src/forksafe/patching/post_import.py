"""when_imported(): functions that are called with a module once its code has run, now or whenever that will be.

Guarantees: a module that is there is given at once, one that comes later as soon as its code has run, before whoever
imports it goes on; again when it is reloaded. The import itself is the interpreter's: the finders that are installed
find the module, and its own loader, which stays its loader, loads it. What a function raises is reported to
sys.unraisablehook, and the import goes on. forget() takes it back.

Not covered: a module that another thread is importing at the very moment somebody asks for it; one whose loader is a
class (built-in and frozen modules), unless it is there already.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, TypeAlias

from forksafe_core import atfork

__all__ = ["forget", "when_imported"]

Then: TypeAlias = Callable[[ModuleType], object]

_waiting: dict[str, list[Then]] = {}


class _Finder:
    """Asked first, for the modules somebody waits for: lets the others find them, and adds a step to the loading."""

    def __init__(self) -> None:
        self.asking: set[tuple[int, str]] = set()  # others may ask all finders in turn, us too

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        key = (threading.get_ident(), name)
        if name not in _waiting or key in self.asking:
            return None
        self.asking.add(key)
        try:
            for finder in list(sys.meta_path):
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    _add_step(spec.loader)
                    return spec
            return None
        finally:
            self.asking.discard(key)


_finder = _Finder()


def when_imported(name: str, then: Then) -> None:
    """Call then(module) when the module of this name is there and its code has run."""
    _waiting.setdefault(name, []).append(then)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    module = sys.modules.get(name)
    if module is not None:
        _call(then, module)


def forget(functions: Iterable[Then]) -> None:
    """These wait for no module any more."""
    gone = set(map(id, functions))
    for name, waiting in list(_waiting.items()):
        waiting[:] = [then for then in waiting if id(then) not in gone]
        if not waiting:
            del _waiting[name]
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _call(then: Then, module: ModuleType) -> None:
    try:
        then(module)
    except Exception as error:  # the program imports what it would without us
        atfork.write_unraisable(error, then)


def _add_step(loader: Any) -> None:
    """Have this loader call those who wait. Shadowed on the object, so that it is still the loader it was."""
    if isinstance(loader, type) or "exec_module" in getattr(loader, "__dict__", {}):
        return
    load = getattr(loader, "exec_module", None)
    if load is None:
        return

    def exec_module(module: ModuleType) -> None:
        load(module)
        if getattr(loader, "name", None) == module.__name__:  # else it loads others too
            vars(loader).pop("exec_module", None)
        for then in list(_waiting.get(module.__name__, ())):
            _call(then, module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        return
