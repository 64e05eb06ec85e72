"""WorkerThreads: the threads of a ThreadPoolExecutor in one process, and the queue that they take work from.

Guarantees: there are as many threads as there is work for, up to the executor's number; they are started when work is
submitted. All end once the queue is closed and everything is done. They refer to no executor, so they keep none alive.
If a thread cannot be started and there is no other, submit() raises and nothing has been submitted.

Why that survives fork: WorkerThreads belong to the process that made them. The only one of the threads that a child may
have, the one that forked, finds out when it has ended its task, and ends the child.
"""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures._base import LOGGER
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

from forksafe.atfork.child_exit import end_process
from forksafe.atfork.hooks import forking_idents
from forksafe.executors.futures import Future
from forksafe.executors.inherited import end_with_task
from forksafe.introspection.exemptions import exempt_thread
from forksafe.locks import Lock
from forksafe_core import PerProcess, WorkQueue

__all__ = ["WorkerThreads", "is_interpreter_ending"]

_POLL = 0.05  # seconds between two looks at which threads are waiting for a fork of their own

_lock = Lock()
_all: PerProcess[weakref.WeakSet[WorkerThreads]] = PerProcess(weakref.WeakSet)
_ending = False


def is_interpreter_ending() -> bool:
    """True once threads are being waited for at the interpreter's end: nothing more can be submitted."""
    return _ending


class WorkerThreads:
    """The workers of one process. `broken` says why they take no more work; it is empty while they do."""

    def __init__(self, size: int, prefix: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]):
        self.queue = WorkQueue(Future, size, self._start_thread)
        self.threads: set[threading.Thread] = set()
        self.broken = ""
        self._prefix = prefix
        self._initializer, self._initargs = initializer, initargs
        with _lock:
            _all().add(self)
        if _ending:
            self.queue.close()

    def _start_thread(self, future: Future[Any]) -> None:
        thread = threading.Thread(name=f"{self._prefix}_{len(self.threads)}", target=_work, args=(self,))
        self.threads.add(thread)
        exempt_thread(thread)
        try:
            thread.start()
        except Exception:
            self.threads.discard(thread)
            self.queue.forget_thread()
            if self.queue.threads == 0 and self.queue.withdraw(future):
                raise

    def counts(self) -> tuple[int, int, int]:
        """How many threads there are, how many tasks wait, and how many run."""
        return len(self.threads), self.queue.qsize(), self.queue.running

    def close(self, *, cancel: bool = False) -> None:
        """Take no more work. cancel: do not begin what has not begun."""
        self.queue.close()
        if cancel:
            for future in self.queue.drain():
                future.cancel()

    def join(self) -> None:
        """Wait for the threads, which end once the queue is closed."""
        for thread in list(self.threads):
            thread.join()

    def pause(self, on: bool) -> None:
        """Begin nothing, or go on."""
        self.queue.pause() if on else self.queue.resume()

    def wait_until_idle(self, seconds: float) -> list[threading.Thread]:
        """While the queue is paused: the threads, other than the calling one, that are busy after so many seconds.

        Threads that wait for a fork of their own are not waited for: they go on when the calling thread has forked.
        """
        deadline = time.monotonic() + seconds
        me = threading.current_thread()
        while not self.queue.inherited:
            left = deadline - time.monotonic()
            forking = [each for each in list(self.threads) if each is me or each.ident in forking_idents()]
            if self.queue.wait_idle(len(forking), min(left, _POLL)):
                return [thread for thread in forking if thread is not me]
            if left <= 0:
                frames = sys._current_frames()
                others = [each for each in list(self.threads) if each is not me]
                return [each for each in others if _is_busy(frames.get(each.ident or 0))]
        return []

    def fail(self) -> None:
        """The initializer has failed: fail everything that is queued."""
        self.broken = "A thread initializer failed, the thread pool is not usable anymore"
        self.queue.close()
        for future in self.queue.drain():
            future.set_exception(BrokenThreadPool(self.broken))

    def initialize(self) -> bool:
        """Run the initializer, in the calling thread. False when it failed: the thread has nothing to do then."""
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException as error:
            if self.queue.inherited:
                end_process(error)
            LOGGER.critical("Exception in initializer:", exc_info=True)
            self.fail()
            return False
        if self.queue.inherited:  # it has forked
            end_process(None)
        return True


def _work(workers: WorkerThreads) -> None:
    """What a thread runs."""
    queue = workers.queue
    queue.enter()
    try:
        ready = workers.initialize()
    finally:
        queue.leave()
    if not ready:
        return
    ended: Any = True
    while ended is True:
        try:
            ended = queue.run_next()
        except BaseException as error:  # SystemExit and the like, out of a callback
            if queue.inherited:
                end_process(error)
            LOGGER.critical("Exception in worker", exc_info=True)
    if ended is not None:  # a child: this was the task that forked
        end_with_task(ended)


def _is_busy(frame: Any) -> bool:
    """A thread that waits for work is in _work() itself, and in nothing that this called."""
    return frame is not None and frame.f_code is not _work.__code__


def _end_all() -> None:
    global _ending
    with _lock:
        _ending = True
        workers = list(_all())
    for each in workers:
        each.close()
    for each in workers:
        each.join()


# Before threading waits for threads that are not daemons: these are not, and end here.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]
