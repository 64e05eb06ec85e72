"""Which BackgroundThreads have a thread: what children and the interpreter's end do about them.

Guarantees: in a child each of them is told once that it is to go on there; one that cannot does not keep the others
from it. At the interpreter's end all are told to stop, and waited for at most park_timeout seconds each, counted from
there. Who is remembered here is kept alive, as a thread keeps itself.

Why that survives fork: the set is changed and copied in one step each under the GIL, so a fork finds it whole. A
program in which none is started pays nothing: the hooks are registered by the first.

Not covered: a child made by C, until it first calls anything of forksafe.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from forksafe.atfork.hooks import register_at_fork
from forksafe.locks import Lock
from forksafe_core import atfork

if TYPE_CHECKING:
    from forksafe.background.thread import BackgroundThread

__all__ = ["add", "discard", "is_interpreter_ending"]

_changing = Lock()
_ready = False
_ending = False
_live: set[BackgroundThread] = set()


def add(thread: BackgroundThread) -> None:
    """Remember it until discard(). RuntimeError when the interpreter is ending."""
    global _ready
    with _changing:
        if not _ready:
            threading._register_atexit(_end_all)  # type: ignore[attr-defined]
            register_at_fork(after_in_child=_after_in_child)
            _ready = True
    _live.add(thread)


def discard(thread: BackgroundThread) -> None:
    _live.discard(thread)


def is_interpreter_ending() -> bool:
    """True once all are told to stop at the interpreter's end: none can be started."""
    return _ending


def _after_in_child() -> None:
    for thread in list(_live):
        try:
            thread._go_on_in_child()
        except BaseException as error:  # the others go on
            atfork.write_unraisable(error, thread)


def _end_all() -> None:
    """Before threading waits for threads that are no daemons."""
    global _ending
    _ending = True
    start = time.monotonic()
    ending = [(thread, run) for thread in list(_live) if (run := thread._tell_to_stop()) is not None]
    for thread, run in ending:
        if run is not threading.current_thread():
            run.wait_ended(max(start + thread.park_timeout - time.monotonic(), 0))
