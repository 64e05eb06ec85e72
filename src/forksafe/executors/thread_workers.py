"""Crew: the threads of a ThreadPoolExecutor in one process, and what they have to do.

Guarantees: as many threads as there is work for, up to the executor's number, started when work is submitted; all end
when the crew is closed and everything is done. A crew refers to no executor, so that its threads keep none alive. If a
thread cannot be started and there is no other, the caller of submit() is told and nothing has been submitted.

Why that survives fork: a Crew belongs to the process that made it. In a child the one thread of it that may be there,
the one that forked, finds out when it has ended what it was doing, and ends the child (ending.py).
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
from forksafe.introspection.exemptions import exempt_thread
from forksafe.locks import Lock
from forksafe_core import WorkQueue

__all__ = ["Crew", "is_interpreter_ending"]

_GLANCE = 0.05  # seconds after which who waits for a thread looks whether that waits for a fork

_changing = Lock()
_crews: weakref.WeakSet[Crew] = weakref.WeakSet()
_ending = False


def is_interpreter_ending() -> bool:
    """True once threads are being waited for at the interpreter's end: nothing more can be submitted."""
    return _ending


class Crew:
    """What an executor has in one process. `broken` says why it takes no more work; empty while it does."""

    def __init__(self, size: int, prefix: str, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]):
        self.work = WorkQueue(Future, size, self._grow)
        self.threads: set[threading.Thread] = set()
        self.broken = ""
        self._prefix = prefix
        self._initializer, self._initargs = initializer, initargs
        with _changing:
            _crews.add(self)
        if _ending:
            self.work.close()

    def _grow(self, future: Future[Any]) -> None:
        thread = threading.Thread(name=f"{self._prefix}_{len(self.threads)}", target=_work_for, args=(self,))
        self.threads.add(thread)
        exempt_thread(thread)
        try:
            thread.start()
        except Exception:
            self.threads.discard(thread)
            self.work.forget_thread()
            if self.work.threads == 0 and self.work.withdraw(future):
                raise

    def close(self, *, cancel: bool = False) -> None:
        """Take no more work; cancel: nor do what has not begun."""
        self.work.close()
        if cancel:
            for future in self.work.take_rest():
                future.cancel()

    def join(self) -> None:
        """Wait for its threads, which end once it is closed; in a child for none."""
        if not self.work.inherited:
            for thread in list(self.threads):
                thread.join()

    def wait_for_rest(self, seconds: float) -> list[threading.Thread]:
        """While its work is paused: the threads, but for the calling one, that are busy after so many seconds.

        Those that wait at a fork of their own are not waited for: they go on when the one that asks has forked.
        """
        deadline = time.monotonic() + seconds
        me = threading.current_thread()
        while not self.work.inherited:
            left = deadline - time.monotonic()
            forking = [each for each in list(self.threads) if each is me or each.ident in forking_idents()]
            if self.work.wait_idle(len(forking), min(left, _GLANCE)):
                return [thread for thread in forking if thread is not me]
            if left <= 0:
                frames = sys._current_frames()
                others = [each for each in list(self.threads) if each is not me]
                return [each for each in others if _is_busy(frames.get(each.ident or 0))]
        return []

    def fail(self) -> None:
        """The initializer has failed: so has everything that waits to be done."""
        self.broken = "A thread initializer failed, the thread pool is not usable anymore"
        self.work.close()
        for future in self.work.take_rest():
            future.set_exception(BrokenThreadPool(self.broken))

    def prepare(self) -> bool:
        """Called by each thread first. False when it has nothing to do here."""
        if self._initializer is None:
            return True
        try:
            self._initializer(*self._initargs)
        except BaseException as error:
            if self.work.inherited:
                end_process(error)
            LOGGER.critical("Exception in initializer:", exc_info=True)
            self.fail()
            return False
        if self.work.inherited:  # it has forked
            end_process(None)
        return True


def _work_for(crew: Crew) -> None:
    work = crew.work
    work.enter()
    try:
        ready = crew.prepare()
    finally:
        work.leave()
    if not ready:
        return
    ended: Any = True
    while ended is True:
        try:
            ended = work.run_next()
        except BaseException as error:  # SystemExit and the like, out of a callback
            if work.inherited:
                end_process(error)
            LOGGER.critical("Exception in worker", exc_info=True)
    if ended is not None:  # a child: this was the task that forked
        end_process(ended.exception() if ended.done() else None)


def _is_busy(frame: Any) -> bool:
    """One that waits for work is in _work_for() itself, and in nothing that this called."""
    return frame is not None and frame.f_code is not _work_for.__code__


def _end_all() -> None:
    global _ending
    with _changing:
        _ending = True
        crews = [crew for crew in _crews if not crew.work.inherited]
    for crew in crews:
        crew.close()
    for crew in crews:
        crew.join()


# Before threading waits for threads that are no daemons, as these are, in order to end them.
threading._register_atexit(_end_all)  # type: ignore[attr-defined]
