"""Future: concurrent.futures.Future for forksafe's executors.

Guarantees: an instance of concurrent.futures.Future; wait(), as_completed(), asyncio.wrap_future() and result() take it
for one, together with others. It makes a condition only when one of the first two asks for it. In a child a future that
was not done at the fork is done with InheritedFutureError, so that nobody waits for ever; one that was done stays
readable; one whose task the forking thread was just running goes on there, for that thread to end it. Callbacks that
were added before the fork run in the parent alone.

Why that survives fork: it is settled when it is next looked at (forksafe_core's future_state.pxi). Only where the
thread that forked may itself be waiting inside the standard library, a hook has the futures look at themselves.
"""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import BrokenExecutor, CancelledError, InvalidStateError, TimeoutError
from concurrent.futures import Future as _StandardFuture
from concurrent.futures._base import LOGGER
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from forksafe.atfork.hooks import register_at_fork
from forksafe.locks import Condition, Lock
from forksafe_core import FutureState, atfork

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Future", "InheritedFutureError"]

T = TypeVar("T")


class InheritedFutureError(BrokenExecutor):
    """A future was not done at the fork: who was to do it is not there in the child."""


class Future(FutureState[T], _StandardFuture[T]):
    """What forksafe's executors give for a call that is to be made; see concurrent.futures.Future.

    In a child one that was not done at the fork has failed with InheritedFutureError.
    """

    __module__ = "forksafe"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Future cannot be pickled or copied: what it waits for is in this process")

    # What FutureState asks for.

    def _new_condition(self) -> Condition:
        _remember(self)
        return Condition()

    def _inherited(self) -> InheritedFutureError:
        return inherited_error()

    def _remember(self) -> None:
        _remember(self)

    def _callbacks_here(self, callbacks: list[Any]) -> list[Any]:
        return callbacks_here(callbacks)

    def _renew_waiters(self) -> None:
        renew_waiters(self._waiters)

    def _raise_unfinished(self, cancelled: bool) -> NoReturn:
        raise CancelledError if cancelled else TimeoutError

    def _raise_done(self) -> NoReturn:
        raise InvalidStateError(f"{self._state}: {self!r}")

    def _raise_begun(self) -> NoReturn:
        LOGGER.critical("Future %s in unexpected state: %s", id(self), self._state)
        raise RuntimeError("Future in unexpected state")

    def _cancel_shared(self) -> int:
        with self._condition:
            was: int = self._leave_pending(by_cancel=True)
            self._condition.notify_all()
        return was

    def _begin_shared(self) -> int:
        with self._condition:
            was: int = self._leave_pending(by_cancel=False)
            if self._state == "CANCELLED":
                self._notified()
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
        return was

    def _finish_shared(self, result: Any, exception: BaseException | None) -> None:
        with self._condition:
            if not self._complete(result, exception):
                self._raise_done()
            for waiter in self._waiters:
                if exception is None:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()

    def _invoke_callbacks(self) -> None:
        generation = atfork.generation()
        for callback in self._take_callbacks():
            if atfork.generation() != generation:
                break  # a callback has forked: the rest is the parent's
            self._call(callback)

    def _call(self, callback: Callable[[Future[T]], object]) -> None:
        try:
            callback(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)


def inherited_error() -> InheritedFutureError:
    """What a future that was not done at the fork fails with in a child."""
    return InheritedFutureError(
        "this future was not done when the process forked: it is the parent's, and is not done a second time in "
        "the child. Submit the call in the child if it is wanted there"
    )


def settle_inherited(future: _StandardFuture[Any], *, is_here: bool = False) -> None:
    """In a child, do for a standard future of the parent's what those of forksafe do by themselves.

    is_here: the thread that forked is the one which runs it, and goes on.
    """
    if isinstance(future, Future):
        future._look()
        return
    theirs: Any = future
    condition, callbacks, waiters = theirs._condition, theirs._done_callbacks, theirs._waiters
    theirs._condition = threading.Condition()
    theirs._done_callbacks = [] if is_here else callbacks_here(callbacks)
    for each in (condition, callbacks, list(callbacks)):
        atfork.keep_alive(each)
    if is_here:
        theirs._waiters = []
    elif not future.done():
        renew_waiters(waiters)
        future.set_exception(inherited_error())
        _wake(condition)


def _wake(condition: Any) -> None:
    """This thread may be waiting with it, in a signal handler that forked; nobody else is."""
    condition._lock._at_fork_reinit()
    with condition:
        condition.notify_all()


def callbacks_here(callbacks: list[Any]) -> list[Any]:
    """In a child, what the callbacks of asyncio come to that were added before the fork.

    The others are the parent's. These tell an asyncio future of the end of this one, and are called if the loop that
    waits for it is the one which the thread that forked was running.
    """
    return [
        call for each in callbacks if getattr(each, "__module__", None) == "asyncio.futures" and (call := _here(each))
    ]


def _here(callback: Any) -> Callable[[Any], object] | None:
    code, cells = getattr(callback, "__code__", None), getattr(callback, "__closure__", None) or ()
    names = dict(zip(code.co_freevars if code else (), (cell.cell_contents for cell in cells), strict=False))
    loop: Any = names.get("dest_loop")
    if getattr(loop, "_thread_id", None) != threading.get_ident():
        return None
    # Not call_soon_threadsafe(): it would wake the parent, through a socket that it shares with the child.
    return lambda future: loop.call_soon(names["_set_state"], names["destination"], future)


def renew_waiters(waiters: list[Any]) -> None:
    """In a child: those of wait() have locks of threading's, which threads that vanished may have held."""
    for waiter in waiters:
        waiter.event._cond._lock._at_fork_reinit()  # not the event: this thread may be waiting for it
        if hasattr(waiter, "lock"):
            waiter.lock._at_fork_reinit()


_waited_for: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
_changing = Lock()
_watching = False


def _remember(future: Future[Any]) -> None:
    """The thread that forks may be in wait() for it, for a signal handler can fork, or run a loop that awaits it."""
    global _watching
    with _changing:
        _waited_for.add(future)
        if not _watching:
            _watching = True
            register_at_fork(after_in_child=_look_at_all)


def _look_at_all() -> None:
    global _waited_for
    inherited, _waited_for = list(_waited_for), weakref.WeakSet()
    for future in inherited:
        future._look()
        if not future.done():
            _waited_for.add(future)
