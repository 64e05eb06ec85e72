"""Adapters for logging: its handlers' locks, and QueueListener.

Guarantees, in a child: a listener that ran at the fork runs there, too, in a thread of the child's own, and writes what
the child logs. The records that the parent had queued are the parent's. A listener that was stopped stays so; stop()
returns. If a handler forks, the child ends when that handler has returned, as a program does.

Why that survives fork: whether a listener runs is noted before the fork; the child starts it as the program would.

Not covered: a listener on a queue that processes share (multiprocessing's) is not started in a child, for it would take
the parent's records. A queue.SimpleQueue after a fork by C, on CPython 3.13: the interpreter hands its lock to a thread
that vanished.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

from forksafe.adapters.helpers import drained, note_alive, part, was_alive
from forksafe.adapters.registry import Adapter
from forksafe.atfork.child_exit import end_process, end_with_thread
from forksafe.atfork.foreign_forks import NullWorker
from forksafe_core import atfork

__all__ = ["ADAPTERS"]


def _is_in_process(records: Any) -> bool:
    return any(cls.__module__.partition(".")[0] in ("queue", "_queue", "forksafe") for cls in type(records).__mro__)


def _parts_of(listener: Any) -> list[Any]:
    handlers = [each for each in listener.handlers if isinstance(each, logging.Handler)]
    return [*handlers, *([listener.queue] if isinstance(listener.queue, queue.Queue) else [])]


def _note(listener: Any) -> bool:
    note_alive(listener, listener._thread)
    return False


def _restart(listener: Any) -> None:
    thread, records = listener._thread, listener.queue
    ran = was_alive(listener, thread is not None)
    atfork.keep_alive(thread)
    is_here = thread is not None and thread is threading.current_thread()
    in_process = _is_in_process(records)
    if in_process:
        drained(records)
        if hasattr(records, "unfinished_tasks"):
            records.unfinished_tasks = int(is_here)  # this thread calls task_done() once more
    if is_here:
        end_with_thread(thread)
        listener.dequeue = _last_of(records if in_process else None)
    elif thread is not None:
        listener._thread = None
        if in_process and ran:
            listener.start()
        elif sys.version_info < (3, 13):  # there stop() expects a thread
            _ignore_stop(listener)


def _last_of(records: Any) -> Callable[[bool], Any]:
    """A handler has forked: the child ends when that has returned and what it logged has been handled."""

    def dequeue(block: bool) -> Any:
        try:
            return records.get_nowait()
        except (queue.Empty, AttributeError):
            end_process(None)

    return dequeue


def _ignore_stop(listener: Any) -> None:
    """Until start() is called in the child, stop() does nothing, also where atexit calls it."""
    ended, alive = NullWorker(), weakref.ref(listener)

    def enqueue_sentinel() -> None:
        mine: Any = alive()
        if mine._thread is not ended:
            type(mine).enqueue_sentinel(mine)

    listener._thread, listener.enqueue_sentinel = ended, enqueue_sentinel


ADAPTERS = {
    "logging.Handler": Adapter(part("lock")),
    "logging.handlers.QueueListener": Adapter(_parts_of, held=_note, reset=_restart),
}
