"""ThreadPoolExecutor: concurrent.futures' for programs that fork.

Guarantees: it is one, for isinstance() and for asyncio. In a child it can be used at once, at its full size, with
threads of the child's own; what was queued or running in the parent is not done a second time, and its futures have
failed there (futures.py). If a task forks, the child is in the middle of that task: it goes on with it and takes no
other; when it ends, so does the child, as a program ends: sys.exit() in the task gives its status, an exception the
traceback and 1. Nobody waits in a child for threads of the parent, neither shutdown() nor the end of the interpreter.

Why that survives fork: all that belongs to one process is a Crew, and a child makes its own. Nothing is registered,
walked or reset at a fork. fork_grace and quiesce() have the threads come to rest before it; nothing else needs that.

Not covered: locks that a vanished task held, other than forksafe's; quiesce() avoids those.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor as _StandardExecutor
from concurrent.futures.thread import BrokenThreadPool
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from forksafe.atfork import quiesce as quiescing
from forksafe.atfork.quiesce import seconds
from forksafe.executors.futures import Future
from forksafe.executors.thread_workers import Crew, is_interpreter_ending
from forksafe.locks import Lock
from forksafe_core import WorkQueue, atfork

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ThreadPoolExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPoolExecutor(_StandardExecutor):
    """concurrent.futures.ThreadPoolExecutor for programs that fork; takes the same arguments, and one more.

    fork_grace: seconds that a fork made by Python waits for running tasks to end, with none begun meanwhile; then it
    goes ahead, with a ForkHazardWarning. None, the default, does not wait: tasks that run are missing in the child, and
    no more.

    In a child it can be used at once. What the parent had submitted is the parent's; here its futures have failed with
    InheritedFutureError. A task that forks goes on in the child, which ends when the task does.
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
        self._max_workers = max_workers
        self._prefix = thread_name_prefix or f"ThreadPoolExecutor-{self._counter()}"  # type: ignore[attr-defined]
        self._prepare = initializer, initargs
        self.fork_grace = None if fork_grace is None else seconds(fork_grace, "ThreadPoolExecutor(fork_grace)")
        self._lock = Lock()
        self._shutdown = False
        self._crew = self._new_crew()
        self._work: WorkQueue = self._crew.work
        quiescing.add(self)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have fn(*args, **kwargs) called by one of the threads; returns a Future for what it returns.

        RuntimeError after shutdown(), BrokenThreadPool when the initializer has failed.
        """
        future: Future[T] | None = self._work.submit(fn, args, kwargs)
        return future if future is not None else self._submit_slowly(fn, args, kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. wait: until all is done; cancel_futures: do not begin what has not begun.

        In a child nothing of the parent's is waited for, and the parent's executor stays as it is.
        """
        with self._lock:
            self._shutdown = True
            crew = self._crew
        if not crew.work.inherited:
            crew.close(cancel=cancel_futures)
            if wait:
                crew.join()

    # For quiescing.py.

    def heed_rests(self) -> None:
        """Begin nothing that was submitted while it is at rest."""
        with self._lock:
            if quiescing.is_at_rest(self):
                self._crew.work.pause()
            else:
                self._crew.work.resume()

    def wait_for_rest(self, seconds: float) -> list[threading.Thread]:
        """The threads that are still busy after so many seconds."""
        return self._crew.wait_for_rest(seconds)

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        return set() if self._crew.work.inherited else self._crew.threads

    @property
    def _work_queue(self) -> WorkQueue:  # type: ignore[override]  # qsize() is what others ask it for
        return self._current().work

    @property
    def _broken(self) -> str:  # type: ignore[override]
        return "" if self._crew.work.inherited else self._crew.broken

    def _submit_slowly(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        while True:
            crew = self._current()
            if crew.broken:
                raise BrokenThreadPool(crew.broken)
            if self._shutdown:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if is_interpreter_ending():
                raise RuntimeError("cannot schedule new futures after interpreter shutdown")
            future: Future[Any] | None = crew.work.submit(fn, args, kwargs)
            if future is not None:
                return future

    def _new_crew(self) -> Crew:
        return Crew(self._max_workers, self._prefix, *self._prepare)

    def _current(self) -> Crew:
        atfork.generation()  # in a child hooks may be due
        if self._crew.work.inherited:
            with self._lock:
                if self._crew.work.inherited:
                    atfork.keep_alive(self._crew)
                    crew = self._new_crew()
                    if quiescing.is_at_rest(self):
                        crew.work.pause()
                    self._crew, self._work = crew, crew.work
        return self._crew

    def __del__(self, keep_alive: Callable[[object], None] = atfork.keep_alive) -> None:
        # A default, for at the interpreter's end the module's names may be gone.
        crew = self.__dict__.get("_crew")
        if crew is None:
            return
        if crew.work.inherited:
            keep_alive(crew)  # its threads vanished, and the interpreter would detach them
        else:
            crew.close()

    def __reduce__(self) -> Any:
        raise TypeError("a ThreadPoolExecutor cannot be pickled or copied: make one in each process, or fork")


def _cpu_count() -> int | None:
    return getattr(os, "process_cpu_count", os.cpu_count)()
