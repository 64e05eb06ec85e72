"""Fork-safety primitives: threading, concurrent.futures and multiprocessing for programs with threads that fork.

A fork copies the memory of a process, but only one of its threads. The child finds locks held, tasks begun and
connections in use by threads that it does not have. Objects of this package are usable in the child.

  a program that hangs    forksafe doctor app.py finds the cause, forksafe run app.py cures it (command line)
  locks                   Lock, RLock, Condition, Event, Barrier, Semaphore, BoundedSemaphore, local: as threading's
  executors, threads      ThreadPoolExecutor, ProcessPoolExecutor, Future, BackgroundThread, background_thread
  processes               get_context(), get_start_method(): fork only while there is one thread
  connections             @resource, ConnectionPool: a child makes its own; close_on_fork(), keep_on_fork()
  state of a process      PerProcess: renewed in each child; generation()
  what exists already     protect() for an object, install() for threading's names in the whole program
  types of your own       register_adapter(), register_finder()
  code around a fork      register_at_fork(), @before, @after_in_parent, @after_in_child, quiesce()
  what a fork breaks      hazards(); guard() warns of them or refuses the fork; track_locks() adds to the reports
  tests                   testing.run_in_child(); pytest --forksafe=error

Begin with `forksafe run` for a program that is to stay as it is, else with the lock:

    lock = forksafe.Lock()  # in place of threading.Lock(): never left locked by a thread that a child does not have

Each name has its promises in its own help. Errors are subclasses of RuntimeError or TimeoutError.
"""

from __future__ import annotations

import os as _os
import sys as _sys

from forksafe.atfork.hooks import Registration, after_in_child, after_in_parent, before, register_at_fork
from forksafe.errors import (
    ChildError,
    ChildTimeout,
    ForkHazardWarning,
    InheritedConnectionError,
    InheritedResourceError,
    PoolClosed,
    PoolTimeout,
    UnknownDescriptorsWarning,
)
from forksafe.locks import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore, local
from forksafe_core import PerProcess
from forksafe_core import atfork as _atfork

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from forksafe import testing
    from forksafe.adapters.protect import protect, register_adapter, unprotect
    from forksafe.atfork.quiesce import quiesce
    from forksafe.background.thread import BackgroundThread, background_thread
    from forksafe.descriptors.close_on_fork import close_on_fork, keep_on_fork
    from forksafe.descriptors.type_plans import register_finder
    from forksafe.diagnostics.guard import Guard, guard
    from forksafe.diagnostics.hazard import ForkHazardError, Hazard
    from forksafe.diagnostics.lock_tracking import track_locks
    from forksafe.diagnostics.scan import hazards
    from forksafe.executors.futures import Future
    from forksafe.executors.inherited import InheritedFutureError
    from forksafe.executors.process import ProcessPoolExecutor
    from forksafe.executors.thread import ThreadPoolExecutor
    from forksafe.patching.install import install, uninstall
    from forksafe.pool.pool import ConnectionPool, PoolStats
    from forksafe.processes.context import get_context
    from forksafe.processes.start_method import get_start_method
    from forksafe.resources.resource import Resource, resource

__version__ = "0.1.0"

__all__ = [
    "BackgroundThread",
    "Barrier",
    "BoundedSemaphore",
    "ChildError",
    "ChildTimeout",
    "Condition",
    "ConnectionPool",
    "Event",
    "ForkHazardError",
    "ForkHazardWarning",
    "Future",
    "Guard",
    "Hazard",
    "InheritedConnectionError",
    "InheritedFutureError",
    "InheritedResourceError",
    "Lock",
    "PerProcess",
    "PoolClosed",
    "PoolStats",
    "PoolTimeout",
    "ProcessPoolExecutor",
    "RLock",
    "Registration",
    "Resource",
    "Semaphore",
    "ThreadPoolExecutor",
    "UnknownDescriptorsWarning",
    "after_in_child",
    "after_in_parent",
    "background_thread",
    "before",
    "close_on_fork",
    "generation",
    "get_context",
    "get_start_method",
    "guard",
    "hazards",
    "install",
    "keep_on_fork",
    "local",
    "protect",
    "quiesce",
    "register_adapter",
    "register_at_fork",
    "register_finder",
    "resource",
    "testing",
    "track_locks",
    "uninstall",
    "unprotect",
]

_NAMES = {  # of each module that is imported at first use
    "adapters.protect": ("protect", "register_adapter", "unprotect"),
    "atfork.quiesce": ("quiesce",),
    "background.thread": ("BackgroundThread", "background_thread"),
    "descriptors.close_on_fork": ("close_on_fork", "keep_on_fork"),
    "descriptors.type_plans": ("register_finder",),
    "diagnostics.guard": ("Guard", "guard"),
    "diagnostics.hazard": ("ForkHazardError", "Hazard"),
    "diagnostics.lock_tracking": ("track_locks",),
    "diagnostics.scan": ("hazards",),
    "executors.futures": ("Future",),
    "executors.inherited": ("InheritedFutureError",),
    "executors.process": ("ProcessPoolExecutor",),
    "executors.thread": ("ThreadPoolExecutor",),
    "patching.install": ("install", "uninstall"),
    "pool.pool": ("ConnectionPool", "PoolStats"),
    "processes.context": ("get_context",),
    "processes.start_method": ("get_start_method",),
    "resources.resource": ("Resource", "resource"),
}
_modules = {name: f"forksafe.{module}" for module, names in _NAMES.items() for name in names}


def generation() -> int:
    """How many forks lie between this process and the one that first imported forksafe: 0, 1, 2 …

    Forks in a row that ran no handler and in which nothing of forksafe was called count as one.
    """
    return _atfork.generation()


if not TYPE_CHECKING:  # to a type checker it would mean that any name exists

    def __getattr__(name):
        module = "forksafe.testing" if name == "testing" else _modules.get(name)
        if module is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        __import__(module)
        if name != "testing":
            globals()[name] = getattr(_sys.modules[module], name)
        return globals()[name]


def _start_watchdog() -> None:
    from forksafe.diagnostics.hangs import watchdog

    watchdog.start_if_asked()


if _os.environ.get("FORKSAFE_WATCHDOG") and hasattr(_os, "fork"):
    _start_watchdog()


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
