"""Adapters for the standard library's threads that run beside the program: logging's QueueListener, threading.Timer.

Guarantees, in a child of a process that protected one: it runs there, too, if it ran at the fork, with a thread of the
child's own. A listener in a child writes what the child logs; the records that the parent had queued are the parent's.
A timer's time begins anew, and its thread is a daemon there, so that no child waits for it at its exit. What was
stopped or cancelled stays so; stop(), cancel() and join() return. If a handler forks, the child ends when that has
returned, as a program does; a timer whose own function forks goes on, with the thread that the child has.

Why that survives fork: whether it ran is asked before the fork; the child starts it as the program would.

Not covered: a listener over a queue that processes share (multiprocessing's) is not started in a child: it would take
the parent's records. A queue.SimpleQueue after a fork by C, on CPython 3.13: the interpreter takes a thread that
vanished for the one to be woken.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from forksafe.adapters.registry import drained, register_adapter
from forksafe.atfork.child_exit import end_process, end_with_thread
from forksafe.atfork.foreign_forks import NullWorker
from forksafe_core import atfork

__all__: list[str] = []

_ALIVE = "_forksafe_alive"  # an attribute: was its thread alive when the process forked?


def _note_alive(obj: Any, thread: Any) -> None:
    """Asked before the fork, or after one by C: only then can it be told."""
    vars(obj)[_ALIVE] = thread is not None and thread.is_alive()


# QueueListener


def _is_in_process(records: Any) -> bool:
    return any(cls.__module__.partition(".")[0] in ("queue", "_queue", "forksafe") for cls in type(records).__mro__)


def _parts_of_listener(listener: Any) -> list[Any]:
    handlers = [each for each in listener.handlers if isinstance(each, logging.Handler)]
    return [*handlers, *([listener.queue] if isinstance(listener.queue, queue.Queue) else [])]


def _look_at_listener(listener: Any) -> bool:
    _note_alive(listener, listener._thread)
    return False


def _renew_listener(listener: Any) -> None:
    thread, records = listener._thread, listener.queue
    was_alive = vars(listener).pop(_ALIVE, thread is not None)
    atfork.keep_alive(thread)
    is_here = thread is not None and thread is threading.current_thread()
    in_process = _is_in_process(records)
    if in_process:
        drained(records)
        if hasattr(records, "unfinished_tasks"):
            records.unfinished_tasks = int(is_here)  # which has yet to say that it is done
    if is_here:
        end_with_thread(thread)
        listener.dequeue = _last_of(records if in_process else None)
    elif thread is not None:
        listener._thread = None
        if in_process and was_alive:
            listener.start()
        elif sys.version_info < (3, 13):  # whose stop() does not ask if there is a thread
            _have_stop_do_nothing(listener)


def _last_of(records: Any) -> Callable[[bool], Any]:
    """A handler has forked: the child ends when that has returned, and what was logged meanwhile is handled."""

    def dequeue(block: bool) -> Any:
        try:
            return records.get_nowait()
        except (queue.Empty, AttributeError):
            end_process(None)

    return dequeue


def _have_stop_do_nothing(listener: Any) -> None:
    """Also one that was registered with atexit: until start() is called here, there is nobody to stop."""
    ended, alive = NullWorker(), weakref.ref(listener)

    def enqueue_sentinel() -> None:
        mine: Any = alive()
        if mine._thread is not ended:
            type(mine).enqueue_sentinel(mine)

    listener._thread, listener.enqueue_sentinel = ended, enqueue_sentinel


register_adapter(
    "logging.handlers.QueueListener", parts=_parts_of_listener, held=_look_at_listener, reset=_renew_listener
)


# Timer


def _look_at_timer(timer: Any) -> bool:
    _note_alive(timer, timer)
    return timer is threading.current_thread()


def _renew_timer(timer: Any) -> None:
    if not vars(timer).pop(_ALIVE, False) or timer.finished.is_set():
        return
    before = dict(vars(timer))
    atfork.keep_alive(before)
    again = {name: before.get(f"_{name}") for name in ("target", "name", "args", "kwargs")}
    threading.Thread.__init__(timer, daemon=True, **{**again, "args": again["args"] or ()})  # type: ignore[arg-type]
    timer.start()


register_adapter(threading.Timer, parts=lambda timer: [timer.finished], held=_look_at_timer, reset=_renew_timer)
