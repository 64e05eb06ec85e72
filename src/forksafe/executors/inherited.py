"""What becomes, in a child, of the work that its parent had submitted. One meaning for forksafe's executors and others.

Guarantees: a future or result that was not done at the fork fails with InheritedFutureError, so nothing that waits for
it hangs. One that was done stays readable. Callbacks that were added before the fork run in the parent alone, except
those by which asyncio hands a result to a loop that the forking thread runs. A task that forks goes on in the child;
the child ends when the task does, as a program ends.

Why that survives fork: what other threads may have held at the fork, locks of conditions and events, is replaced or
reset before it is used. What belongs to the parent is kept alive, and no finaliser of it runs.

Not covered: which futures are to be settled. forksafe's own settle themselves when they are next looked at; adapters
know their executors.
"""

from __future__ import annotations

import threading
from concurrent.futures import BrokenExecutor, Future
from typing import TYPE_CHECKING, Any, NoReturn

from forksafe.atfork.child_exit import end_process
from forksafe_core import FutureState, atfork

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "InheritedFutureError",
    "end_with_task",
    "future_error",
    "local_callbacks",
    "renew_waiters",
    "result_error",
    "settle",
]


class InheritedFutureError(BrokenExecutor):
    """A future was not done when the process forked. The thread or worker that was to do it belongs to the parent."""


def future_error() -> InheritedFutureError:
    """The exception of a future that was not done at the fork."""
    return InheritedFutureError(
        "this future was not done when the process forked: it is the parent's, and is not done a second time in "
        "the child. Submit the call in the child if it is wanted there"
    )


def result_error() -> InheritedFutureError:
    """The exception of a result of a multiprocessing pool that was not ready at the fork."""
    return InheritedFutureError(
        "this result was not ready when the process forked: it is the parent's, and is not made a second time in the "
        "child. Call the pool in the child if it is wanted there"
    )


def settle(future: Any, *, is_here: bool = False) -> None:
    """In a child, settle an inherited future of any kind.

    is_here: the thread that forked is running it and goes on, so it is not failed.
    """
    if isinstance(future, FutureState):
        future._look()
        return
    condition, callbacks, waiters = future._condition, future._done_callbacks, future._waiters
    future._condition = threading.Condition()
    future._done_callbacks = [] if is_here else local_callbacks(callbacks)
    for each in (condition, callbacks, list(callbacks)):
        atfork.keep_alive(each)
    if is_here:
        future._waiters = []
    elif not future.done():
        renew_waiters(waiters)
        future.set_exception(future_error())
        # The forking thread itself may be waiting with the old condition: a signal handler can fork.
        condition._lock._at_fork_reinit()
        with condition:
            condition.notify_all()


def end_with_task(future: Future[Any] | None) -> NoReturn:
    """In a child: the task that forked has ended. End the process as the task ended; None: with status 0."""
    end_process(future.exception() if future is not None and future.done() else None)


def local_callbacks(callbacks: list[Any]) -> list[Callable[[Any], object]]:
    """Of the callbacks that were added before the fork, those that the child calls.

    asyncio adds one that hands the result to a loop. It is called if the thread that forked was running that loop.
    """
    found = [_for_this_loop(each) for each in callbacks if getattr(each, "__module__", None) == "asyncio.futures"]
    return [each for each in found if each is not None]


def _for_this_loop(callback: Any) -> Callable[[Any], object] | None:
    code, cells = getattr(callback, "__code__", None), getattr(callback, "__closure__", None) or ()
    names = dict(zip(code.co_freevars if code else (), (cell.cell_contents for cell in cells), strict=False))
    loop: Any = names.get("dest_loop")
    if getattr(loop, "_thread_id", None) != threading.get_ident():
        return None
    # Not call_soon_threadsafe(): it would wake the parent, through a socket that it shares with the child.
    return lambda future: loop.call_soon(names["_set_state"], names["destination"], future)


def renew_waiters(waiters: list[Any]) -> None:
    """In a child: free the locks of concurrent.futures' waiters, which threads that vanished may have held."""
    for waiter in waiters:
        waiter.event._cond._lock._at_fork_reinit()  # not the event: this thread may be waiting for it
        if hasattr(waiter, "lock"):
            waiter.lock._at_fork_reinit()
