"""ProcessPoolExecutor: concurrent.futures' for programs that fork.

Guarantees: it is one, for isinstance() and for asyncio. In a child it starts anew at the first submit(), with workers
of the child's own; what the parent had submitted is the parent's, and its futures have failed there unless they were
done (futures.py). A child never waits for what its parent owns, sends nothing to it and signals none of its workers,
neither by shutdown() nor at its exit. The workers do not outlive their owner, however it ends (processes.py). With
restart=True a set of workers that has broken is replaced at the next submit().

Why that survives fork: all that belongs to one process is a standard executor, which this one owns. It is replaced as a
whole, and the one that a child inherited is kept for good: were it freed, it would take locks that vanished threads
hold, and wake the parent's.

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

from forksafe.atfork.child_exit import end_process
from forksafe.atfork.disowning import disown_processes, disown_threads
from forksafe.atfork.hooks import register_at_fork
from forksafe.executors.futures import Future, InheritedFutureError
from forksafe.locks import Lock
from forksafe.processes.process import Context, Process, get_start_method, method_without_fork
from forksafe_core import atfork

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

    In a child it can be used at once, with workers of its own. What the parent had submitted is the parent's; here its
    futures have failed with InheritedFutureError.
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
        self._max_workers = _checked_workers(max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(restart, bool):
            raise TypeError(f"restart takes True, for new workers when some have died, or False, not {restart!r}")
        if isinstance(mp_context, Context):
            mp_context = None  # the workers' is that, and more
        _check_tasks(max_tasks_per_child, mp_context)
        self._mp_context: Any = mp_context
        self._initializer: Any = initializer
        self._initargs = initargs
        self._max_tasks_per_child = max_tasks_per_child
        self._restart = restart
        self._lock = Lock()
        self._shutdown = False
        self._crew: _Crew | None = None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have fn(*args, **kwargs) called by one of the workers; returns a Future for what it returns.

        RuntimeError after shutdown(). BrokenProcessPool when a worker has died or the initializer has failed, unless
        the executor was made with restart=True.
        """
        crew = self._current()
        try:
            task = crew.inner.submit(fn, *args, **kwargs)
        except BrokenProcessPool:
            if not self._restart:
                raise
            task = self._current(instead_of=crew).inner.submit(fn, *args, **kwargs)
            crew.shutdown(False, False)  # so that it is not kept for longer than its thread lives
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
        with self._lock:
            self._shutdown = True
            crew = self._crew
        if crew is not None and not crew.inherited:
            crew.shutdown(wait, cancel_futures)
            if crew.ended:
                self._crew = None  # what it still refers to is of no use to anybody

    if sys.version_info >= (3, 14):

        def terminate_workers(self) -> None:
            """Send the workers SIGTERM, and take no more work. In a child the parent's are left alone."""
            self._end_workers("terminate_workers")

        def kill_workers(self) -> None:
            """Send the workers SIGKILL, and take no more work. In a child the parent's are left alone."""
            self._end_workers("kill_workers")

    def _end_workers(self, how: str) -> None:
        with self._lock:
            self._shutdown = True
            crew = self._crew
        if crew is not None and not crew.inherited:
            crew.note()
            getattr(crew.inner, how)()

    @property
    def _processes(self) -> dict[int, Any]:  # type: ignore[override]  # what others look at
        crew = self._crew
        return {} if crew is None or crew.inherited else dict(crew.processes)

    def _current(self, instead_of: _Crew | None = None) -> _Crew:
        atfork.generation()  # in a child hooks may be due
        with self._lock:
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            crew = self._crew
            if crew is None or crew.inherited or crew is instead_of:
                crew = self._crew = _Crew(self._new_inner())
            return crew

    def _new_inner(self) -> _StandardExecutor:
        more: Any = {}
        if self._max_tasks_per_child is not None:
            more["max_tasks_per_child"] = self._max_tasks_per_child
        may_fork = not more and get_start_method() == "fork"
        context = self._mp_context or _WorkerContext(may_fork)
        return _StandardExecutor(self._max_workers, context, self._initializer, self._initargs, **more)

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        # At the interpreter's end the module's names may be gone, and all workers have ended.
        crew = self.__dict__.get("_crew")
        if crew is not None and not is_finalizing() and not crew.inherited:
            crew.shutdown(False, False)

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


class _Crew:
    """What an executor has in one process: a standard executor, and what a child must know of it."""

    def __init__(self, inner: _StandardExecutor) -> None:
        self._manager: Any = None  # first, so that it goes before the executor, which would wake it once more
        self._processes: Any = None
        self.inner = inner
        self.generation = atfork.generation()
        _crews.difference_update([crew for crew in list(_crews) if crew.ended])
        _crews.add(self)

    @property
    def inherited(self) -> bool:
        return self.generation != atfork.generation()

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

    def note(self) -> None:
        """What the standard executor forgets when it is shut down."""
        self._manager, self._processes = self.manager, self.processes

    def shutdown(self, wait: bool, cancel_futures: bool) -> None:
        self.note()
        self.inner.shutdown(wait, cancel_futures=cancel_futures)
        if self.ended:
            _crews.discard(self)


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


_crews: set[_Crew] = set()  # keeps those that have been shut down until their threads have ended


def _after_in_child() -> None:
    global _crews
    inherited = {crew for crew in _crews if crew.inherited}
    _crews = _crews - inherited
    for crew in inherited:
        atfork.keep_alive(crew)
        disown_threads([crew.manager])
        disown_processes(crew.processes.values())


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


register_at_fork(after_in_child=_after_in_child)
# Before the standard library's exit functions: a child of a fork that ran no hooks finds out here.
threading._register_atexit(atfork.generation)  # type: ignore[attr-defined]
