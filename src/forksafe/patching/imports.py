"""Modules that a thread was importing when another thread forked: in the child they can be imported anew.

Guarantees: a child neither waits for an import that a vanished thread had begun, nor uses a half-made module. When the
module is imported again, its code runs again, from the start, in the same module object, as in importlib.reload():
submodules that did load refer to it, and are attributes of it.

Why that survives fork: the import system has a lock with its owner for each module being imported, and puts the
half-made module into sys.modules. The child releases the locks of vanished threads, and removes their modules.

Not covered: what the half-run code did outside its own module (a registry that takes a name once); modules made by C
code, which get a new object. Imports of the thread that forked itself go on as they were.
"""

from __future__ import annotations

import _thread
import sys
import threading
from importlib import _bootstrap as _importlib_bootstrap
from importlib.machinery import ExtensionFileLoader
from types import ModuleType
from typing import Any

__all__ = ["cure", "install", "uninstall"]

_bootstrap: Any = _importlib_bootstrap
_half_made: dict[str, ModuleType] = {}


class _HalfMadeImporter:
    """The finder of modules that a vanished thread left half made, and their loader, which wraps their own."""

    def __init__(self, loader: Any = None, module: ModuleType | None = None) -> None:
        self.loader = loader
        self.module = module

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        module = _half_made.pop(name, None)
        if module is None:
            return None
        spec = _bootstrap._find_spec(name, path)  # asks the other finders, as this one no longer has the name
        if spec is not None and spec.has_location and not isinstance(spec.loader, ExtensionFileLoader):
            spec.loader = _HalfMadeImporter(spec.loader, module)
        return spec

    def create_module(self, spec: Any) -> ModuleType | None:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        spec.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)


_finder = _HalfMadeImporter()


def install() -> None:
    """Put the finder first. Children call cure()."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def cure() -> None:
    """In a child: release the module locks of threads that vanished, and remove their modules from sys.modules."""
    me = _thread.get_ident()
    # In a child that ran on for a while before this was called, threads of its own may be importing.
    alive = {me} if len(sys._current_frames()) == 1 else {me, *(thread.ident for thread in threading.enumerate())}
    for name, reference in list(_bootstrap._module_locks.items()):
        lock = reference()
        if lock is None:
            continue
        if lock.owner is not None and lock.owner not in alive:
            _remove_half_made(name)
            _release(lock)
        elif len(alive) == 1:
            _forget_waiters(lock)
    if len(alive) == 1:
        _forget_blocked(me)


def _remove_half_made(name: str) -> None:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and getattr(spec, "_initializing", False):
        del sys.modules[name]
        spec._initializing = False  # type: ignore[union-attr]
        _half_made[name] = module


def _release(lock: Any) -> None:
    lock.owner = None
    lock.count = type(lock.count)()  # a number; from CPython 3.12 on a list
    _forget_waiters(lock)


def _forget_blocked(me: int) -> None:
    """Which thread waits for which lock. This one's entry stays, for it may be importing."""
    blocked = getattr(_bootstrap._blocking_on, "data", _bootstrap._blocking_on)  # from CPython 3.12 on, weak values
    for ident in [ident for ident in blocked if ident != me]:
        del blocked[ident]


def _forget_waiters(lock: Any) -> None:
    lock.waiters = type(lock.waiters)()
    lock.lock._at_fork_reinit()
    lock.wakeup._at_fork_reinit()
