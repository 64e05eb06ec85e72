"""Adapters for concurrent.futures' own ThreadPoolExecutor and ProcessPoolExecutor.

Guarantees, in a child of a process that protected one: it can be used at once, with workers of the child's own. What
was submitted and not done has failed there with InheritedFutureError; nothing of it is run a second time. The parent's
workers are neither told, joined nor signalled, by no method and not at the child's exit. What was shut down or broken
stays so. If a task of a ThreadPoolExecutor forks, or a callback of either, the child ends when that ends: as a program
does, with the status of sys.exit(), or the traceback of an exception and 1.

Why that survives fork: what belongs to the parent is taken out of the executor before the child's own code runs, and
kept for good, unclosed. What a thread runs is read from its frame at the fork; after a fork by C the frames are still
to be seen in the child. The processes are made when the child first takes the executor's lock.

Not covered: an initializer or a thread's callback that forks and then raises, and callbacks of futures with arguments
that could not be pickled: the child ends with status 0. An executor without references while its workers finish.
"""

from __future__ import annotations

import queue
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from forksafe.adapters.helpers import drained, keep_attributes, settle_at_exit
from forksafe.adapters.registry import Adapter
from forksafe.atfork.child_exit import disown_parents_processes, disown_threads, end_process, end_with_thread
from forksafe.atfork.foreign_forks import NullWorker
from forksafe.executors.inherited import end_with_task, settle
from forksafe.locks import Lock
from forksafe_core import atfork

__all__ = ["ADAPTERS"]


# ThreadPoolExecutor

_RUNNING = "_forksafe_running"  # an attribute of executors: the futures that their threads are running at the fork


def _note_running(executor: Any) -> bool:
    """Called before the fork, as held=: no thread holds an executor."""
    worker = getattr(sys.modules.get("concurrent.futures.thread"), "_worker", None)
    frames = sys._current_frames()
    running = {}
    for thread in list(executor._threads):
        frame = _find(frames.get(thread.ident), getattr(worker, "__code__", None))
        if frame is not None:
            running[thread.ident] = getattr(_local(frame, "work_item"), "future", None)
    vars(executor)[_RUNNING] = running
    return False


def _find(frame: FrameType | None, code: Any) -> FrameType | None:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame


def _local(frame: FrameType, name: str) -> Any:
    variables = frame.f_locals
    value = variables.get(name)
    if sys.version_info < (3, 13):
        variables.clear()  # a copy, which the frame would keep, and with it the task's arguments
    return value


class _EndOfProcess:
    """The last item of the parent's queue, for the thread that forked: it ends the child."""

    def __init__(self, future: Any) -> None:
        self.future = future

    def run(self, *context: Any) -> None:
        end_with_task(self.future)


def _renew_threads(executor: Any) -> None:
    threads, work, running = executor._threads, executor._work_queue, vars(executor).pop(_RUNNING, {})
    for each in (threads, work, list(threads)):
        atfork.keep_alive(each)
    executor._threads = set()
    executor._work_queue = queue.SimpleQueue()
    executor._idle_semaphore = threading.Semaphore(0)
    executor._shutdown_lock = threading.Lock()
    disown_threads(threads)
    own = running.pop(threading.get_ident(), None)
    waiting = [getattr(item, "future", None) for item in drained(work)]
    for future in [*waiting, *running.values()]:
        if future is not None:
            settle(future)
    if threading.current_thread() in threads:
        end_with_thread(threading.current_thread())
        if own is not None:
            settle(own, is_here=True)
        work.put(_EndOfProcess(own))


# ProcessPoolExecutor


class _FirstUseLock:
    """The lock of an executor in a child. The first thread that takes it makes the executor's queues and processes.

    submit() is not replaced for that: a bound method that was taken before the fork would not know.
    """

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


def _set_up(executor: Any, lock: _FirstUseLock) -> None:
    standard: Any = sys.modules["concurrent.futures.process"].ProcessPoolExecutor
    fresh = object.__new__(standard)
    tasks = getattr(executor, "_max_tasks_per_child", None)  # from CPython 3.11 on
    more = {} if tasks is None else {"max_tasks_per_child": tasks}
    arguments = executor._max_workers, executor._mp_context, executor._initializer, executor._initargs
    standard.__init__(fresh, *arguments, **more)
    made = vars(fresh)
    made["_call_queue"].shutdown_lock = made["_shutdown_lock"] = lock
    vars(executor).update(made)


def _renew_processes(executor: Any) -> None:
    before = keep_attributes(executor)
    disown_parents_processes()
    for manager in _managers_of(executor):
        _disown_manager(manager)
    executor._processes = None if executor._shutdown_thread else {}
    executor._executor_manager_thread = executor._executor_manager_thread_wakeup = None
    executor._call_queue = executor._result_queue = executor._work_ids = None
    executor._pending_work_items = {}
    executor._shutdown_lock = _FirstUseLock(executor)
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
    if manager is here:  # a callback has forked; this thread calls executor_reference() next
        end_with_thread(manager)
        manager.executor_reference = end_process
    else:
        manager.executor_reference = NullWorker()  # the inherited one wakes the parent when the executor is freed


ADAPTERS = {
    "concurrent.futures.thread.ThreadPoolExecutor": Adapter(held=_note_running, reset=_renew_threads),
    "concurrent.futures.process.ProcessPoolExecutor": Adapter(watch=settle_at_exit, reset=_renew_processes),
}
