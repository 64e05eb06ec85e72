"""The BackgroundThreads that are started: children restart them, and the interpreter's end stops them.

Guarantees: in a child each is restarted once; one that cannot be restarted does not keep the others from it. At the
interpreter's end all are told to stop and then waited for, at most park_timeout seconds each, counted from there. What
is started is kept alive, as a thread keeps itself.

Why that survives fork: the set is changed and copied in one step each (Participants).

Not covered: a child made by C, until it first calls anything of forksafe.
"""

from __future__ import annotations

import threading
import time

from forksafe.atfork.participants import Participants
from forksafe.background.run import Restartable
from forksafe.locks import Lock

__all__ = ["is_interpreter_ending", "remember", "started"]


def _restart(thread: Restartable) -> None:
    thread._restart_in_child()


started = Participants(after_in_child=_restart, strong=True)
_changing = Lock()
_stops_at_exit = _ending = False


def remember(thread: Restartable) -> None:
    """Add it to the started ones. RuntimeError when the interpreter is ending."""
    global _stops_at_exit
    with _changing:
        if not _stops_at_exit:
            threading._register_atexit(_stop_all)  # type: ignore[attr-defined]
            _stops_at_exit = True
    started.add(thread)


def is_interpreter_ending() -> bool:
    """True once all are told to stop at the interpreter's end: none can be started."""
    return _ending


def _stop_all() -> None:
    """Before threading waits for threads that are no daemons."""
    global _ending
    _ending = True
    start = time.monotonic()
    ending = [(thread, run) for thread in started if (run := thread._tell_to_stop()) is not None]
    for thread, run in ending:
        if run is not threading.current_thread():
            run.wait_ended(max(start + thread._park_timeout - time.monotonic(), 0))
