"""ThreadPoolExecutor: concurrent.futures' for programs that fork.

Guarantees: it is one, for isinstance() and for asyncio. A child can use it at once, at its full size, with threads of
its own. What was queued or running in the parent is not done a second time, and its futures have failed (inherited.py).
If a task forks, the child goes on with that task and takes no other; it ends when the task does, as a program ends:
with the status of sys.exit(), or with a traceback and status 1. In a child neither shutdown() nor the interpreter's end
waits for threads of the parent.

Why that survives fork: all that belongs to one process is its WorkerThreads, which are PerProcess. Nothing is
registered, walked or reset at a fork. fork_grace and quiesce() let the threads finish before it; nothing else needs
that.

Where there is no fork it is the standard executor (without_fork.py).

Not covered: locks that a vanished task held, other than forksafe's; quiesce() avoids those.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor as _StandardExecutor
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from forksafe.arguments import seconds_or_none
from forksafe.atfork import quiesce
from forksafe.executors.futures import Future
from forksafe.executors.thread_workers import WorkerThreads, is_interpreter_ending
from forksafe.locks import Lock
from forksafe_core import PerProcess, WorkQueue

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThreadPoolExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPoolExecutor(_StandardExecutor):
    """concurrent.futures.ThreadPoolExecutor for programs that fork; takes the same arguments, and one more.

    fork_grace: seconds that a fork made by Python waits for running tasks to end; none begins during that time. Then
    the fork goes ahead, with a ForkHazardWarning. By default, None, it does not wait: tasks that run are missing in the
    child, and no more.

    A child can use it at once. What the parent had submitted belongs to the parent; in the child its futures have
    failed with InheritedFutureError. A task that forks goes on in the child, which ends when the task does.
    """

    __module__ = "forksafe"

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        fork_grace: float | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = min(32, (_cpu_count() or 1) + 4)
        if max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        prefix = thread_name_prefix or f"ThreadPoolExecutor-{self._counter()}"  # type: ignore[attr-defined]
        self._max_workers = max_workers
        self._lock = Lock()
        self._shutdown = False
        # Not a method: an executor that nothing refers to is freed at once.
        self._workers = PerProcess(partial(WorkerThreads, max_workers, prefix, initializer, initargs))
        self._queue: WorkQueue = self._workers().queue
        self.fork_grace = fork_grace

    @property
    def fork_grace(self) -> float | None:
        """Seconds that a fork made by Python waits for running tasks to end; None: it does not wait."""
        return self._fork_grace

    @fork_grace.setter
    def fork_grace(self, value: float | None) -> None:
        self._fork_grace = seconds_or_none(value, "ThreadPoolExecutor(fork_grace)")
        quiesce.add(self, self._fork_grace)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have fn(*args, **kwargs) called by one of the threads; returns a Future for what it returns.

        RuntimeError after shutdown(), BrokenThreadPool when the initializer has failed.
        """
        future: Future[T] | None = self._queue.submit(fn, args, kwargs)
        return future if future is not None else self._submit_slowly(fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. wait: until all is done; cancel_futures: do not begin what has not begun.

        In a child nothing of the parent's is waited for, and the parent's executor stays as it is.
        """
        with self._lock:
            self._shutdown = True
        workers = self._workers.peek()
        if workers is not None:
            workers.close(cancel=cancel_futures)
            if wait:
                workers.join()

    # For quiesce().

    def _apply_pauses(self) -> None:
        with self._lock:
            workers = self._workers.peek()
            if workers is not None:
                workers.pause(quiesce.is_paused(self))

    def _wait_until_idle(self, seconds: float) -> list[threading.Thread]:
        workers = self._workers.peek()
        return workers.wait_until_idle(seconds) if workers is not None else []

    # What other libraries look at.

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        workers = self._workers.peek()
        return workers.threads if workers is not None else set()

    @property
    def _work_queue(self) -> WorkQueue:  # type: ignore[override]
        return self._current().queue

    @property
    def _broken(self) -> str:  # type: ignore[override]
        workers = self._workers.peek()
        return workers.broken if workers is not None else ""

    def _submit_slowly(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        while True:
            workers = self._current()
            if workers.broken:
                raise BrokenThreadPool(workers.broken)
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if is_interpreter_ending():
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            future: Future[Any] | None = workers.queue.submit(fn, args, kwargs)
            if future is not None:
                return future

    def _current(self) -> WorkerThreads:
        workers = self._workers()
        if self._queue is not workers.queue:
            self._apply_pauses()  # before other threads find the queue
            self._queue = workers.queue
        return workers

    def __repr__(self) -> str:
        workers = self._workers.peek()
        threads, queued, running = workers.counts() if workers is not None else (0, 0, 0)
        state = " broken" if self._broken else " closed" if self._shutdown else ""
        return (
            f"<forksafe.{type(self).__name__} workers={threads}/{self._max_workers} queued={queued} running={running}"
            f"{state} at {id(self):#x}>"
        )

    def __del__(self) -> None:
        per_process = self.__dict__.get("_workers")
        workers = per_process.peek() if per_process is not None else None
        if workers is not None:
            workers.close()

    def __reduce__(self) -> Any:
        raise TypeError("a ThreadPoolExecutor cannot be pickled or copied: make one in each process, or fork")


def _cpu_count() -> int | None:
    return getattr(os, "process_cpu_count", os.cpu_count)()


if WorkQueue is None:
    from forksafe.executors.without_fork import ThreadPoolExecutor  # type: ignore[assignment]
