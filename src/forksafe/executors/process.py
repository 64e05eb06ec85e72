"""ProcessPoolExecutor: concurrent.futures' for programs that fork.

Guarantees: it is one, for isinstance() and for asyncio. In a child it starts anew at the first submit(), with workers
of the child's own; what the parent had submitted belongs to the parent (inherited.py). A child never waits for what its
parent owns, sends nothing to it and signals none of its workers, neither by shutdown() nor at its exit. The workers do
not outlive their owner, however it ends (processes/parent_death.py). With restart=True a set of workers that has broken
is replaced at the next submit().

Why that survives fork: all that belongs to one process is a standard executor, which is PerProcess and is replaced as a
whole. The inherited one is kept alive for good: its finaliser would take locks that vanished threads hold, and wake the
parent's threads.

Where there is no fork, submit() returns the standard executor's own futures.

Not covered: with an mp_context of multiprocessing's the workers are as it makes them: they may be forked among threads,
and outlive an owner that is killed.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from concurrent.futures import Future as _StandardFuture
from concurrent.futures import ProcessPoolExecutor as _StandardExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from forksafe.atfork.child_exit import disown_processes, disown_threads, end_process
from forksafe.atfork.participants import Participants
from forksafe.executors.futures import Future
from forksafe.executors.inherited import InheritedFutureError
from forksafe.locks import Lock
from forksafe.processes.context import Context
from forksafe.processes.process import Process
from forksafe.processes.start_method import get_start_method, method_without_fork
from forksafe_core import PerProcess, atfork

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BrokenProcessPool", "InheritedFutureError", "ProcessPoolExecutor"]

P = ParamSpec("P")
T = TypeVar("T")

_FORKS = hasattr(os, "fork")
_MOST_ON_WINDOWS = 61  # workers: what one call there can wait for


class ProcessPoolExecutor(_StandardExecutor):
    """concurrent.futures.ProcessPoolExecutor for programs that fork; takes the same arguments, and one more.

    mp_context: by default forksafe's: workers are forked only while this process has a single thread. They are killed
    if this process ends without having waited for them. max_tasks_per_child: needs CPython 3.11.
    restart: when a worker has died, all that was submitted fails with BrokenProcessPool as in the standard one; with
    restart=True the next submit() starts a new set of workers, instead of failing for good.

    A child can use it at once, with workers of its own. What the parent had submitted belongs to the parent; in the
    child its futures have failed with InheritedFutureError.
    """

    __module__ = "forksafe"

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: BaseContext | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        restart: bool = False,
    ) -> None:
        # The standard one has these attributes, and programs read them.
        self._max_workers = _checked_workers(max_workers)
        self._initializer: Any = initializer
        self._initargs = initargs
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(restart, bool):
            raise TypeError(f"restart takes True, for new workers when some have died, or False, not {restart!r}")
        if isinstance(mp_context, Context):
            mp_context = None  # that of the workers includes it
        self._mp_context: Any = mp_context
        self._max_tasks_per_child = max_tasks_per_child
        _check_tasks(max_tasks_per_child, mp_context)
        more = {} if max_tasks_per_child is None else {"max_tasks_per_child": max_tasks_per_child}
        # Not a method: an executor that nothing refers to is freed at once.
        self._start = functools.partial(_start, self._max_workers, mp_context, initializer, initargs, more)
        self._restart = restart
        self._lock = Lock()
        self._shutdown = False
        self._workers = PerProcess(self._start)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have fn(*args, **kwargs) called by one of the workers; returns a Future for what it returns.

        RuntimeError after shutdown(). BrokenProcessPool when a worker has died or the initializer has failed, unless
        the executor was made with restart=True.
        """
        workers = self._current()
        try:
            task = workers.inner.submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            if not self._restart:
                raise
            task = self._current(instead_of=workers).inner.submit(fn, *args, **kwargs)
            workers.shutdown(False, False)  # so that it is not kept for longer than its thread lives
        if not _FORKS:
            return task  # type: ignore[return-value]  # what a Future is there, too
        future = _TaskFuture(task)
        task.add_done_callback(functools.partial(_finish, future, atfork.generation()))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. wait: until all is done and the workers have ended; cancel_futures: do not begin what has
        not begun.

        In a child nothing of the parent's is waited for, and the parent's executor stays as it is.
        """
        workers = self._close()
        if workers is not None:
            workers.shutdown(wait, cancel_futures)
            if workers.ended:
                self._workers = PerProcess(self._start)  # frees what the workers still refer to

    if sys.version_info >= (3, 14):

        def terminate_workers(self) -> None:
            """Send the workers SIGTERM, and take no more work. In a child the parent's are left alone."""
            self._end_workers("terminate_workers")

        def kill_workers(self) -> None:
            """Send the workers SIGKILL, and take no more work. In a child the parent's are left alone."""
            self._end_workers("kill_workers")

    def _end_workers(self, how: str) -> None:
        workers = self._close()
        if workers is not None:
            workers.note()
            getattr(workers.inner, how)()

    def _close(self) -> ProcessGeneration | None:
        with self._lock:
            self._shutdown = True
            return self._workers.peek()

    @property
    def _processes(self) -> dict[int, Any]:  # type: ignore[override]  # what others look at
        workers = self._workers.peek()
        return {} if workers is None else dict(workers.processes)

    def _current(self, instead_of: ProcessGeneration | None = None) -> ProcessGeneration:
        with self._lock:
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if instead_of is not None and self._workers() is instead_of:
                self._workers = PerProcess(self._start)
            return self._workers()

    def __repr__(self) -> str:
        workers = self._workers.peek()
        queued, running, broken = workers.counts() if workers is not None else (0, 0, False)
        state = " broken" if broken else " closed" if self._shutdown else ""
        return (
            f"<forksafe.{type(self).__name__} workers={len(self._processes)}/{self._max_workers} queued={queued} "
            f"running={running}{state} at {id(self):#x}>"
        )

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the interpreter's end the module's names may be gone, and all workers have ended.
        per_process = self.__dict__.get("_workers")
        workers = per_process.peek() if per_process is not None and not is_finalizing() else None
        if workers is not None:
            workers.shutdown(False, False)

    def __reduce__(self) -> Any:
        raise TypeError("a ProcessPoolExecutor cannot be pickled or copied: make one in each process, or fork")


class _WorkerContext(Context):
    """get_context() for workers: they always end with their owner, and all are forked or none is.

    The standard executor starts all its workers before its first thread if this says "fork", else as they are needed.
    """

    def __init__(self, may_fork: bool) -> None:
        self._may_fork = may_fork

    def get_start_method(self, allow_none: bool = False) -> str:
        return "fork" if self._may_fork else method_without_fork()

    def Process(self, *arguments: Any, **more: Any) -> Process:  # type: ignore[override]
        process = Process(*arguments, **more)
        process._tied = True
        process._may_fork = self._may_fork
        return process


class ProcessGeneration:
    """The workers of one process: a standard executor, and what a child must know of it."""

    def __init__(self, inner: _StandardExecutor) -> None:
        self._manager: Any = None  # first, so that it goes before the executor, which would wake it once more
        self._processes: Any = None
        self.inner = inner
        self._generation = atfork.generation()
        for each in _alive:
            if each.ended:
                _alive.discard(each)
        _alive.add(self)

    @property
    def manager(self) -> threading.Thread | None:
        """The thread that hands out the work and waits for the workers. A standard executor forgets it early."""
        return self._manager or getattr(self.inner, "_executor_manager_thread", None)

    @property
    def processes(self) -> dict[int, Any]:
        return self._processes or getattr(self.inner, "_processes", None) or {}

    @property
    def ended(self) -> bool:
        return self._manager is not None and not self._manager.is_alive()

    def counts(self) -> tuple[int, int, bool]:
        """How many tasks wait, how many run or are on their way to a worker, and whether the workers are broken."""
        inner: Any = self.inner
        tasks = [item.future for item in list((inner._pending_work_items or {}).values())]
        running = sum(task.running() for task in tasks)
        return len(tasks) - running, running, bool(inner._broken)

    def note(self) -> None:
        """Remember what the standard executor forgets when it is shut down."""
        self._manager, self._processes = self.manager, self.processes

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        self.note()
        self.inner.shutdown(wait, cancel_futures=cancel_futures)
        if self.ended:
            _alive.discard(self)

    def abandon(self) -> None:
        """In a child: take what is the parent's off the standard library's lists. One that the child made stays."""
        if self._generation != atfork.generation():
            _alive.discard(self)
            atfork.keep_alive(self)
            disown_threads([self.manager])
            disown_processes(self.processes.values())


# Also those that have been shut down, until their threads have ended.
_alive = Participants(after_in_child=ProcessGeneration.abandon, strong=True)


def _start(
    max_workers: int, mp_context: Any, initializer: Any, initargs: tuple[Any, ...], more: dict[str, Any]
) -> ProcessGeneration:
    context = mp_context or _WorkerContext(may_fork=not more and get_start_method() == "fork")
    return ProcessGeneration(_StandardExecutor(max_workers, context, initializer, initargs, **more))


class _TaskFuture(Future[T]):
    """A Future for one of the standard executor's, which only this process has a thread for."""

    __module__ = "forksafe"

    def __init__(self, task: _StandardFuture[T]) -> None:
        super().__init__()
        self._task: _StandardFuture[T] | None = task
        self._canceller = 0

    def cancel(self) -> bool:
        """Cancel it if it has not begun. True if it is cancelled now."""
        task = None if self.done() else self._task
        if task is None:
            return self.cancelled()
        self._canceller = atfork.token()
        return task.cancel()

    def running(self) -> bool:
        """True while it is being executed, or waits in a pipe for a worker and cannot be cancelled."""
        task = None if self.done() else self._task
        return task is not None and task.running()

    @property
    def _state(self) -> str:  # type: ignore[override]
        return "RUNNING" if self.running() else super()._state


def _finish(future: _TaskFuture[T], generation: int, task: _StandardFuture[T]) -> None:
    """What the standard executor's future has become, this one becomes.

    Callbacks run here, and may fork. If this thread is one of the standard executor's, its work is the parent's: in the
    child there is nothing for it to return to.
    """
    future._task = None
    error: BaseException | None = None
    try:
        if task.cancelled():
            Future.cancel(future)
            future.set_running_or_notify_cancel()
        elif (raised := task.exception()) is not None:
            future.set_exception(raised)
        else:
            future.set_result(task.result())
    except BaseException as e:
        error = e
    if atfork.generation() != generation and future._canceller != atfork.token():
        end_process(error)
    if error is not None:
        raise error


def _checked_workers(max_workers: int | None) -> int:
    most = _MOST_ON_WINDOWS if sys.platform == "win32" else None
    if max_workers is None:
        count: int = getattr(os, "process_cpu_count", os.cpu_count)() or 1
        return min(count, most) if most else count
    if max_workers <= 0:
        raise ValueError("max_workers must be greater than 0")
    if most and max_workers > most:
        raise ValueError(f"max_workers must be <= {most}")
    return max_workers


def _check_tasks(max_tasks_per_child: int | None, mp_context: BaseContext | None) -> None:
    if max_tasks_per_child is None:
        return
    if sys.version_info < (3, 11):
        raise NotImplementedError("max_tasks_per_child needs CPython 3.11: leave it out, or restart the executor")
    if not isinstance(max_tasks_per_child, int):
        raise TypeError("max_tasks_per_child must be an integer")
    if max_tasks_per_child <= 0:
        raise ValueError("max_tasks_per_child must be >= 1")
    if mp_context is not None and mp_context.get_start_method(allow_none=False) == "fork":
        raise ValueError(
            "max_tasks_per_child is incompatible with the 'fork' multiprocessing start method: leave mp_context out, "
            "or supply a different one"
        )


# Before the standard library's exit functions: a child of a fork that ran no hooks finds out here.
threading._register_atexit(atfork.generation)  # type: ignore[attr-defined]
