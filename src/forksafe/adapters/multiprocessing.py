"""Adapters for the standard library's process pools and multiprocessing's thread pools, none of them imported for it.

Guarantees, in a child of a process that protected one: concurrent.futures' ProcessPoolExecutor, multiprocessing's Pool
and ThreadPool can be used at once, with workers of the child's own, which are made when there is something to do. What
was submitted and not done has failed there with InheritedFutureError; nothing of it is run a second time. The parent's
workers are neither told, joined nor signalled, by no method and not at the child's exit. What was closed, shut down or
broken stays so. If a task of a ThreadPool forks, or a callback of one of these, the child ends when that ends: as a
program does, with the status of sys.exit(), or a traceback and 1.

Why that survives fork: what belongs to the parent is taken out of the pool and kept for good, unclosed; methods that
others have bound find something that belongs to the child in its place.

Not covered: a pool's input that forks while it is iterated over (imap()), and the callbacks of futures whose arguments
could not be pickled: the child ends with it, with status 0. An executor that nobody refers to any more while its
workers finish what they have.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from forksafe.adapters.registry import drained, register_adapter
from forksafe.atfork.child_exit import (
    disown_parents_processes,
    disown_threads,
    end_process,
    end_with_thread,
    run_due_hooks_at_exit,
)
from forksafe.atfork.foreign_forks import NullWorker
from forksafe.locks import Lock
from forksafe_core import atfork

__all__: list[str] = []


def _parts(obj: object) -> tuple[()]:
    """What is protected has none."""
    run_due_hooks_at_exit()
    return ()


# ProcessPoolExecutor: what it has is replaced by nothing, and made by who first takes its lock.


class _FirstUse:
    """The lock of an executor in a child. Who takes it first makes what the executor is to have here."""

    def __init__(self, executor: Any) -> None:
        self._lock = Lock()
        self._executor: Callable[[], Any] | None = weakref.ref(executor)

    def __enter__(self) -> None:
        self._lock.acquire()
        try:
            if self._executor is not None:
                executor = self._executor()
                if executor is not None and not executor._shutdown_thread:
                    _set_up(executor, self)
                    self._executor = None
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def _set_up(executor: Any, lock: _FirstUse) -> None:
    standard: Any = sys.modules["concurrent.futures.process"].ProcessPoolExecutor
    fresh = object.__new__(standard)
    tasks = getattr(executor, "_max_tasks_per_child", None)  # from CPython 3.11 on
    more = {} if tasks is None else {"max_tasks_per_child": tasks}
    arguments = executor._max_workers, executor._mp_context, executor._initializer, executor._initargs
    standard.__init__(fresh, *arguments, **more)
    made = vars(fresh)
    made["_call_queue"].shutdown_lock = made["_shutdown_lock"] = lock
    vars(executor).update(made)


def _renew_executor(executor: Any) -> None:
    from forksafe.executors.inherited import settle

    before = dict(vars(executor))
    atfork.keep_alive(before)
    disown_parents_processes()
    for manager in _managers_of(executor):
        _disown_manager(manager)
    executor._processes = None if executor._shutdown_thread else {}
    executor._executor_manager_thread = executor._executor_manager_thread_wakeup = None
    executor._call_queue = executor._result_queue = executor._work_ids = None
    executor._pending_work_items = {}
    executor._shutdown_lock = _FirstUse(executor)
    for item in list(before["_pending_work_items"].values()):
        settle(item.future)


def _managers_of(executor: Any) -> list[Any]:
    """The thread that hands out its work and waits for its workers. One that was shut down has forgotten it."""
    wakeups: Any = getattr(sys.modules.get("concurrent.futures.process"), "_threads_wakeups", {})
    found = [manager for manager in list(wakeups) if manager.executor_reference() is executor]
    mine = executor._executor_manager_thread
    return found if mine is None or mine in found else [*found, mine]


def _disown_manager(manager: Any) -> None:
    atfork.keep_alive((manager, dict(vars(manager))["processes"]))
    disown_threads([manager])
    manager.processes = {}
    manager.shutdown_lock = threading.Lock()
    here: Any = threading.current_thread()
    if manager is here:  # a callback has forked; this is what the thread asks next
        end_with_thread(manager)
        manager.executor_reference = end_process
        return
    manager.executor_reference = NullWorker()  # the one before it wakes the parent when the executor goes


register_adapter("concurrent.futures.process.ProcessPoolExecutor", parts=_parts, reset=_renew_executor)


# multiprocessing.pool: what it has is replaced by nothing, and made when it is first asked whether it is running.


def _renew_pool(pool: Any) -> None:
    before = dict(vars(pool))
    atfork.keep_alive(before)
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
        pool._check_running = _set_up_first(pool)


def _set_up_first(pool: Any) -> Callable[[], None]:
    lock, alive = Lock(), weakref.ref(pool)

    def check() -> None:
        pool: Any = alive()
        standard: Any = sys.modules["multiprocessing.pool"].Pool
        with lock:
            if pool._state == "RUN" and vars(pool).get("_check_running") is check:
                arguments = pool._processes, pool._initializer, pool._initargs, pool._maxtasksperchild, pool._ctx
                standard.__init__(pool, *arguments)
                del pool._check_running
        type(pool)._check_running(pool)

    return check


def _fail(result: Any) -> None:
    """An AsyncResult, MapResult or IMapIterator: this thread may be waiting for it, in a signal handler that forked."""
    from forksafe.executors.inherited import result_error

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
        result._items.append((False, error))  # what arrived before it can be had
        result._index += 1
        result._length = result._index
        result._cond.notify_all()


def _end_after_task(thread: Any, tasks: Any, results: Any) -> None:
    """A ThreadPool's task has forked. What its thread takes up next is the end of the child."""

    def end() -> None:
        done = results.get_nowait()
        succeeded, value = done[2]
        end_process(None if succeeded else value)

    drained(tasks)
    drained(results)
    end_with_thread(thread)
    tasks.put((None, None, end, (), {}))


class _EndAfterCallback:
    """In place of where a result takes itself out when its callback has been called."""

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
                getattr(each, name)._handle = None  # as if it were closed: this thread must take nothing, nor send


register_adapter("multiprocessing.pool.Pool", parts=_parts, reset=_renew_pool)
