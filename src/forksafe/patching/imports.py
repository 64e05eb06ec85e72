"""Modules that a thread was importing when another thread forked: in the child they can be imported anew.

The import system keeps, for each module being imported, a lock with its owner, and puts the half-made module into
sys.modules. In a child the owner may have vanished: whoever imports that module there waits for ever; and letting
the lock go is not enough, for the module would be used half made. So in the child such locks are let go and such
modules taken out of sys.modules; when one is imported again, its code runs again, from the start, in the same
module object. The same, as in importlib.reload: submodules that did load refer to it, and are attributes of it.

Not covered: what the half-run code did outside its own module (a registry that refuses to be told twice); modules
made by C code, which get a new object. Imports of the thread that forked itself go on as they were.
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


class _Anew:
    """A finder for modules that a vanished thread left half made, and the loader that goes on with them."""

    def __init__(self, loader: Any = None, module: ModuleType | None = None) -> None:
        self.loader = loader
        self.module = module

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        module = _half_made.pop(name, None)
        if module is None:
            return None
        spec = _bootstrap._find_spec(name, path)  # asks the other finders: this name is no longer ours
        if spec is not None and spec.has_location and not isinstance(spec.loader, ExtensionFileLoader):
            spec.loader = _Anew(spec.loader, module)
        return spec

    def create_module(self, spec: Any) -> ModuleType | None:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        spec: Any = module.__spec__
        spec.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)


_finder = _Anew()


def install() -> None:
    """Have the finder asked first. cure() is to be called in children."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def cure() -> None:
    """In a child: let go the module locks of threads that vanished, and take their modules out of sys.modules."""
    me = _thread.get_ident()
    # In a child that ran on for a while before this was called, threads of its own may be importing.
    alive = {me} if len(sys._current_frames()) == 1 else {me, *(thread.ident for thread in threading.enumerate())}
    for name, reference in list(_bootstrap._module_locks.items()):
        lock = reference()
        if lock is None:
            continue
        if lock.owner is not None and lock.owner not in alive:
            _drop_half_made(name)
            _let_go(lock)
        elif len(alive) == 1:
            _forget_waiters(lock)
    if len(alive) == 1:
        _forget_blocked(me)


def _drop_half_made(name: str) -> None:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    if module is not None and getattr(spec, "_initializing", False):
        del sys.modules[name]
        spec._initializing = False  # type: ignore[union-attr]
        _half_made[name] = module


def _let_go(lock: Any) -> None:
    lock.owner = None
    lock.count = type(lock.count)()  # a number; from CPython 3.12 on a list
    _forget_waiters(lock)


def _forget_blocked(me: int) -> None:
    """Which thread waits for which lock. This one's entry stays: it may be here because it imports just now."""
    blocked = getattr(_bootstrap._blocking_on, "data", _bootstrap._blocking_on)  # from CPython 3.12 on, weak values
    for ident in [ident for ident in blocked if ident != me]:
        del blocked[ident]


def _forget_waiters(lock: Any) -> None:
    lock.waiters = type(lock.waiters)()
    lock.lock._at_fork_reinit()
    lock.wakeup._at_fork_reinit()
