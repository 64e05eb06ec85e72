"""The adapter for multiprocessing's Pool and ThreadPool.

Guarantees, in a child of a process that protected one: it can be used at once, with workers of the child's own, which
are made when there is something to do. What was submitted and not done has failed there with InheritedFutureError;
nothing of it is run a second time. The parent's workers are neither told, joined nor signalled, by no method and not at
the child's exit. What was closed or terminated stays so. If a task of a ThreadPool forks, or a callback of either, the
child ends when that ends: as a program does, with the status of sys.exit(), or a traceback and 1.

Why that survives fork: what belongs to the parent is taken out of the pool and kept for good, unclosed. Each method
calls pool._check_running() first, also one that was bound before the fork: that makes the workers.

Not covered: a pool's input that forks while it is iterated over (imap()): the child ends with it, with status 0.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from forksafe.adapters.helpers import before_first_call, drained, keep_attributes, settle_at_exit
from forksafe.adapters.registry import Adapter
from forksafe.atfork.child_exit import disown_parents_processes, end_process, end_with_thread
from forksafe.atfork.foreign_forks import NullWorker
from forksafe.executors.inherited import result_error

__all__ = ["ADAPTERS"]


def _renew(pool: Any) -> None:
    before = keep_attributes(pool)
    disown_parents_processes()
    here = threading.current_thread()
    if here in before["_pool"]:
        _end_after_task(here, before["_inqueue"], before["_outqueue"])
    elif here in (before.get("_result_handler"), before.get("_task_handler")):
        _end_after_callback(here, before)
    for result in list(before["_cache"].values()):
        _fail(result)
    pool._pool, pool._cache, pool._taskqueue = [], {}, None
    for name in ("_worker_handler", "_task_handler", "_result_handler", "_change_notifier", "_terminate"):
        setattr(pool, name, NullWorker())
    if pool._state in ("INIT", "RUN"):  # the first, where it was just about to start workers
        pool._state = "RUN"
        before_first_call(pool, "_check_running", _set_up)


def _set_up(pool: Any) -> None:
    if pool._state == "RUN":
        arguments = pool._processes, pool._initializer, pool._initargs, pool._maxtasksperchild, pool._ctx
        sys.modules["multiprocessing.pool"].Pool.__init__(pool, *arguments)


def _fail(result: Any) -> None:
    """An AsyncResult, MapResult or IMapIterator: this thread may be waiting for it, in a signal handler that forked."""
    error = result_error()
    result._pool = None
    if hasattr(result, "_event"):
        result._event._cond._lock._at_fork_reinit()
        result._callback = result._error_callback = None
        result._success, result._value = False, error
        result._event.set()
        return
    result._cond._lock._at_fork_reinit()
    with result._cond:
        result._unsorted.clear()
        result._items.append((False, error))  # after those that have arrived
        result._index += 1
        result._length = result._index
        result._cond.notify_all()


def _end_after_task(thread: Any, tasks: Any, results: Any) -> None:
    """A ThreadPool's task has forked: its thread takes up one more, which ends the child."""

    def end() -> None:
        done = results.get_nowait()
        succeeded, value = done[2]
        end_process(None if succeeded else value)

    drained(tasks)
    drained(results)
    end_with_thread(thread)
    tasks.put((None, None, end, (), {}))


class _EndAfterCallback:
    """Replaces the table from which a result removes itself when its callback has returned."""

    def __delitem__(self, job: object) -> None:
        end_process()


def _end_after_callback(thread: Any, pool: dict[str, Any]) -> None:
    end_with_thread(thread)
    thread._state = "TERMINATE"
    for result in pool["_cache"].values():
        result._cache = _EndAfterCallback()
    for each in (pool["_inqueue"], pool["_outqueue"]):
        for name in ("_reader", "_writer"):
            if hasattr(each, name):
                getattr(each, name)._handle = None  # as if it were closed: this thread must neither receive nor send


ADAPTERS = {"multiprocessing.pool.Pool": Adapter(watch=settle_at_exit, reset=_renew)}
