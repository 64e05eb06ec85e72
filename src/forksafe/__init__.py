"""Fork-safety primitives: what threading, os.register_at_fork and friends should do when a threaded process forks.

How this package is laid out, lowest first; each file's contract is at its top:

  errors.py      every exception and warning
  locks.py       Lock, RLock, Condition, Event, Barrier, Semaphore, BoundedSemaphore, local
  alone.py       which threads there are, as the system sees it
  vanished.py    the end of a child of a fork by C, where threading knows nothing of the fork
  hooks.py       register_at_fork, before, after_in_parent, after_in_child
  descriptors.py close_on_fork, keep_on_fork
  finding.py     which descriptors a value has; finders.py: what is known of drivers
  owned.py       values that belong to the process that made them
  resources.py   @resource
  pool.py        ConnectionPool; pooled.py: one connection, pool_threads.py, pool_upkeep.py: who works for it
  futures.py     Future; ending.py: the end of a child that was a worker of its parent
  quiescing.py   quiesce(): threads of forksafe brought to rest
  executors.py   ThreadPoolExecutor; crews.py: its threads
  background.py  BackgroundThread, background_thread; background_runs.py: its thread, restarting.py: in children
  processes.py   get_context, get_start_method
  process_pool.py  ProcessPoolExecutor
  protecting.py  protect(): objects that exist already
  adapters.py    what protect() does for a type; executor_, worker_, thread_adapters.py: for the standard library's,
                 library_, loky_adapters.py, http_pools.py, loops.py: for others'
  disowning.py   what the standard library would end or join at a child's exit, and is the parent's
  imports.py     modules that a vanished thread was importing
  streams.py     standard streams and log files that a vanished thread was writing to
  watching.py    functions called when a module has been imported; making.py: when something has been made
  connecting.py  connections that the program opens, flagged on their own
  auditing.py    audit hooks; lock_places.py: who has a lock; plain_sight.py: looking without running the object's code
  patching.py    install(): threading's factories replaced, and back
  hazard.py      hazards(): what a fork would break; seen_threads, seen_locks, seen_modules, seen_executors,
                 seen_descriptors.py: where it is looked for; taken_care_of.py: what is none; tracking.py: track_locks()
  guarding.py    guard(): warn or veto at fork
  stuck.py       what a child is blocked on; asked_for.py: which lock that is, at_fork.py: what there was at the fork,
                 watchdog.py: FORKSAFE_WATCHDOG
  testing.py     run_in_child(); pytest_plugin.py
  examining.py   what the doctor has a program note; doctor_children.py: children that note nothing; doctor.py,
                 doctor_report.py, doctor_page.py: forksafe doctor
  demo.py        forksafe demo
  cli.py         forksafe run | doctor | demo

Beside it forksafe_core knows how forks happen; it is compiled. What is rarely used is imported at first use.
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
    from forksafe.processes.process import get_context, get_start_method
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

_at_first_use = {
    "BackgroundThread": "forksafe.background.thread",
    "ConnectionPool": "forksafe.pool.pool",
    "PoolStats": "forksafe.pool.pool",
    "Future": "forksafe.executors.futures",
    "InheritedFutureError": "forksafe.executors.inherited",
    "Guard": "forksafe.diagnostics.guard",
    "ForkHazardError": "forksafe.diagnostics.hazard",
    "Hazard": "forksafe.diagnostics.hazard",
    "ProcessPoolExecutor": "forksafe.executors.process",
    "Resource": "forksafe.resources.resource",
    "ThreadPoolExecutor": "forksafe.executors.thread",
    "background_thread": "forksafe.background.thread",
    "close_on_fork": "forksafe.descriptors.close_on_fork",
    "get_context": "forksafe.processes.process",
    "get_start_method": "forksafe.processes.process",
    "guard": "forksafe.diagnostics.guard",
    "hazards": "forksafe.diagnostics.scan",
    "install": "forksafe.patching.install",
    "keep_on_fork": "forksafe.descriptors.close_on_fork",
    "protect": "forksafe.adapters.protect",
    "quiesce": "forksafe.atfork.quiesce",
    "register_adapter": "forksafe.adapters.protect",
    "register_finder": "forksafe.descriptors.type_plans",
    "resource": "forksafe.resources.resource",
    "track_locks": "forksafe.diagnostics.lock_tracking",
    "uninstall": "forksafe.patching.install",
    "unprotect": "forksafe.adapters.protect",
}


def generation() -> int:
    """How many forks lie between this process and the one that first imported forksafe: 0, 1, 2 …

    Forks in a row that ran no handler and in which nothing of forksafe was called count as one.
    """
    return _atfork.generation()


if not TYPE_CHECKING:  # to a type checker it would mean that any name exists

    def __getattr__(name):
        module = "forksafe.testing" if name == "testing" else _at_first_use.get(name)
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
    return sorted({*globals(), *__all__})
