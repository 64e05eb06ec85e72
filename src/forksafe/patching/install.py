"""install(): from now on threading's factories make forksafe types, for code that knows nothing of forksafe.

Guarantees: every name through which a Python program makes a lock is replaced, wherever it is bound: in threading,
_thread and queue, and in each module (and its classes) that took such a name before. isinstance() with the types
that were there before says yes to the new ones. What exists already and can be reached is protected, or exchanged
while no thread can hold it; report() lists that, and what was left alone. Executors, pools of processes and logging's
listeners are protected, those that exist and those that are made later. uninstall() puts the names back.

Why that survives fork: the replaced names are the same in a child. There, the imports and standard streams that
vanished threads were using are repaired: see imports.py and streams.py.

Not covered: locks that C code makes for itself; names that a function keeps in a default or a closure. Objects made
while installed stay forksafe's after uninstall(). What the program connects to: connections.py, on request.
"""

from __future__ import annotations

import _thread
import functools
import gc
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from forksafe import locks
from forksafe.adapters.protect import protect, unprotect
from forksafe.atfork.child_exit import LOKY
from forksafe.atfork.hooks import Registration, register_at_fork
from forksafe.introspection.exemptions import set_installed
from forksafe.introspection.lock_owners import COLLECTIONS, NO_OWNERS, describe, is_bookkeeping, locks_of_threads
from forksafe.patching import imports, streams
from forksafe.patching.instance_hooks import Hook, InstanceHooks

__all__ = ["Report", "install", "report", "uninstall"]

_StandardLock = type(_thread.allocate_lock())
_StandardRLock = _thread.RLock
_STANDARD_LOCKS = (_StandardLock, _StandardRLock)
_SimpleQueue = queue.SimpleQueue

_REPLACEMENTS: list[tuple[Any, Any]] = [
    (_thread.allocate_lock, locks.Lock),
    (_thread.allocate, locks.Lock),
    (_StandardLock, locks.Lock),  # from CPython 3.13 on threading.Lock is the type
    (_StandardRLock, locks.RLock),
    (threading.RLock, locks.RLock),
    (threading.Condition, locks.Condition),
    (threading.Event, locks.Event),
    (threading.Semaphore, locks.Semaphore),
    (threading.BoundedSemaphore, locks.BoundedSemaphore),
    (threading.Barrier, locks.Barrier),
    # The compiled queue has a lock of its own that Python cannot reach; this one is made of a Semaphore.
    (_SimpleQueue, queue._PySimpleQueue),  # type: ignore[attr-defined]
]
_COMPOSED = (
    threading.Condition,
    threading.Event,
    threading.Semaphore,
    threading.Barrier,
    queue.Queue,
    logging.Handler,
    *([functools.cached_property] if sys.version_info < (3, 12) else []),
)
_HOOKS = (
    Hook("concurrent.futures.thread", "ThreadPoolExecutor", protect),
    Hook("concurrent.futures.process", "ProcessPoolExecutor", protect),
    Hook("multiprocessing.pool", "Pool", protect),
    Hook("logging.handlers", "QueueListener", protect),
    *(Hook(module, "ProcessPoolExecutor", protect) for module in LOKY),
)
_OUR_TYPES = (locks.Condition, locks.Event, locks.Semaphore, locks.Barrier)


@dataclass
class Report:
    """What install() did, one line each: names replaced, existing locks exchanged, objects protected or left alone.

    watched: the types that are protected when the program makes an instance. connections: what is flagged or protected
    for connections=True.
    """

    replaced: list[str] = field(default_factory=list)
    exchanged: list[str] = field(default_factory=list)
    protected: list[str] = field(default_factory=list)
    left_alone: list[str] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)


_changing = locks.Lock()
_installed: _Installation | None = None


class _Installation:
    """The changes made, and how to undo them."""

    def __init__(self) -> None:
        self.report = Report()
        self.bound: list[tuple[Any, str, Any, Any]] = []  # owner, name, standard, ours
        self.protected: list[Any] = []
        self.registration: Registration | None = None
        self.hooks = InstanceHooks(_HOOKS)

    def bind(self, owner: Any, name: str, standard: Any, ours: Any) -> None:
        try:
            setattr(owner, name, ours)
        except (AttributeError, TypeError):  # a class that cannot be changed
            return
        self.bound.append((owner, name, standard, ours))

    def protect(self, obj: Any, where: str) -> None:
        try:
            protect(obj)
        except TypeError:
            self.report.left_alone.append(where)
        else:
            self.protected.append(obj)
            self.report.protected.append(where)


def install(*, connections: bool = False) -> None:
    """Make threading's names mean forksafe's types. More than once does nothing more. No effect without fork.

    connections: from now on, also flag what the program connects to, so that children do not share it, and protect
    the pools, clients and event loops that it makes. Can be added later by a second call. A program that connects for
    its child to have the connection (a daemon) then needs keep_on_fork(). TypeError if it is no bool; RuntimeError,
    and nothing is done, if an audit hook of the program's forbids another one.
    """
    global _installed
    if not isinstance(connections, bool):
        raise TypeError(f"install(connections=...) takes True or False, not {connections!r}")
    with _changing:
        if not hasattr(os, "fork"):
            return
        watched = _install_connections() if connections else []
        if _installed is None:
            _installed = _install()
            set_installed(True)
        _installed.report.connections = _installed.report.connections or watched


def _install_connections() -> list[str]:
    from forksafe.patching import connections

    connections.install()
    return connections.WATCHED


def _install() -> _Installation:
    installation = _Installation()
    _replace_names(installation)
    _protect_existing(installation)
    installation.hooks.install()
    installation.report.watched = list(map(str, _HOOKS))
    imports.install()
    installation.registration = register_at_fork(
        before=streams.flush, after_in_parent=streams.forked, after_in_child=_cure_child
    )
    return installation


def uninstall() -> None:
    """Put the standard names back. Objects made while installed stay as they are."""
    global _installed
    with _changing:
        if _installed is None:
            return
        _installed.hooks.uninstall()
        for owner, name, standard, ours in reversed(_installed.bound):
            if vars(owner).get(name) is ours:
                setattr(owner, name, standard)
        for obj in _installed.protected:
            unprotect(obj)
        if _installed.registration is not None:
            _installed.registration.unregister()
        imports.uninstall()
        if _installed.report.connections:
            from forksafe.patching import connections

            connections.uninstall()
        _installed = None
        set_installed(False)


def report() -> Report:
    """What install() found and did; an empty one when it is not installed."""
    return _installed.report if _installed is not None else Report()


def _cure_child() -> None:
    imports.cure()
    streams.cure()


def _modules() -> Iterator[tuple[str, ModuleType]]:
    for module in list(sys.modules.values()):
        name = getattr(module, "__name__", None)
        if isinstance(module, ModuleType) and isinstance(name, str):
            yield name, module


def _replace_names(installation: _Installation) -> None:
    for name, module in _modules():
        if name.split(".")[0] not in _OURS:
            _replace_in(installation, module, name)
            for cls in list(vars(module).values()):
                if isinstance(cls, type) and cls.__module__ == name:
                    _replace_in(installation, cls, f"{name}.{cls.__qualname__}")


_OURS = ("forksafe", "forksafe_core")
_by_id = {id(standard): (standard, ours) for standard, ours in _REPLACEMENTS}


def _replace_in(installation: _Installation, owner: Any, where: str) -> None:
    for name, value in list(vars(owner).items()):
        found = _by_id.get(id(value))
        # A LockType is for isinstance() of old locks, too; new ones are instances of it.
        if found is not None and (not name.endswith("LockType") or where == "_thread"):
            installation.bind(owner, name, *found)
            installation.report.replaced.append(f"{where}.{name}")


def _protect_existing(installation: _Installation) -> None:
    """Exchange the locks in the standard library's modules while no thread can hold them, protect others."""
    done = locks_of_threads()
    if threading.active_count() == 1:
        done |= _exchange_module_locks(installation)
    objects = gc.get_objects()
    for obj in objects:
        if isinstance(obj, _COMPOSED) and not isinstance(obj, _OUR_TYPES):
            installation.protect(obj, f"a {type(obj).__module__}.{type(obj).__qualname__}")
            done |= {id(each) for each in gc.get_referents(obj, getattr(obj, "__dict__", {}))}
        elif type(obj) is _SimpleQueue:
            installation.report.left_alone.append("a queue.SimpleQueue: its lock cannot be reached")
    for owner in objects:
        if issubclass(type(owner), (*NO_OWNERS, *COLLECTIONS)):
            continue
        for lock in gc.get_referents(owner):
            if type(lock) in _STANDARD_LOCKS and id(lock) not in done and not is_bookkeeping(owner):
                done.add(id(lock))
                _protect_lock(installation, lock, describe(owner, lock))


def _exchange_module_locks(installation: _Installation) -> set[int]:
    done = set()
    for name, module in _modules():
        if name.split(".")[0] not in sys.stdlib_module_names:
            continue
        for key, lock in list(vars(module).items()):
            if key == "_global_shutdown_lock":  # concurrent.futures.thread takes it before each fork itself
                done.add(id(lock))
            elif type(lock) in _STANDARD_LOCKS and lock.acquire(False):
                installation.bind(module, key, lock, locks.Lock() if type(lock) is _StandardLock else locks.RLock())
                installation.report.exchanged.append(f"{name}.{key}")
                done.add(id(lock))
                lock.release()
    return done


def _protect_lock(installation: _Installation, lock: Any, where: str) -> None:
    # An RLock names its holder. Of the Locks only the standard library's are known to be held briefly.
    if type(lock) is _StandardRLock or where.split(".", maxsplit=1)[0] in sys.stdlib_module_names:
        installation.protect(lock, where)
    else:
        installation.report.left_alone.append(where)
