"""Future: concurrent.futures.Future for forksafe's executors.

Guarantees: an instance of concurrent.futures.Future. wait(), as_completed(), asyncio.wrap_future() and result() accept
it, also together with others. It makes a condition only when one of the first two asks for it. What becomes of it in a
child is in inherited.py.

Why that survives fork: it is settled when it is next looked at (forksafe_core's future_state.pxi). A hook looks at
those for which the forking thread may itself be waiting inside the standard library.

Where there is no fork it is concurrent.futures.Future itself.
"""

from __future__ import annotations

from concurrent.futures import CancelledError, InvalidStateError, TimeoutError
from concurrent.futures import Future as _StandardFuture
from concurrent.futures._base import LOGGER
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from forksafe.atfork.participants import Participants
from forksafe.executors.inherited import InheritedFutureError, future_error, local_callbacks, renew_waiters
from forksafe.locks import Condition
from forksafe_core import FutureState, atfork

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Future"]

T = TypeVar("T")

# A signal handler may fork while the thread waits for one of these, or runs a loop that does.
_waited_for = Participants(after_in_child=lambda future: future._look())

if TYPE_CHECKING or FutureState is not None:

    class Future(FutureState[T], _StandardFuture[T]):
        """What submit() of forksafe's executors returns; see concurrent.futures.Future.

        In a child, a future that was not done at the fork has failed with InheritedFutureError.
        """

        __module__ = "forksafe"

        def __reduce__(self) -> NoReturn:
            raise TypeError("a Future cannot be pickled or copied: what it waits for is in this process")

        # What FutureState asks for.

        def _new_condition(self) -> Condition:
            self._remember()
            return Condition()

        def _inherited(self) -> InheritedFutureError:
            return future_error()

        def _remember(self) -> None:
            _waited_for.add(self)

        def _callbacks_here(self, callbacks: list[Any]) -> list[Any]:
            return local_callbacks(callbacks)

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

else:
    Future = _StandardFuture
