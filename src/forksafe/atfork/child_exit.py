"""The end of a child whose main thread is one that the interpreter does not end the process with.

A thread that forks is the child's only one. When it was a worker in the parent, and what it worked at has ended, then
so has the child: here it ends as a program does. Returning from the thread would end it without running atexit
functions, without writing out what is buffered, and always with status 0.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any, NoReturn

from forksafe_core import atfork

__all__ = ["end_process", "end_with_thread"]


def end_process(error: BaseException | None = None) -> NoReturn:
    """End this process: with status 0, as SystemExit says, or with a traceback and status 1.

    Waits for the child's other threads that are no daemons, runs atexit functions, writes out stdout and stderr.
    """
    status = _status_of(error)
    # After a fork made by C threading takes the parent's threads for alive, and would wait for them.
    if threading.main_thread() is threading.current_thread():
        _attempt(threading._shutdown)  # type: ignore[attr-defined]
    import atexit

    _attempt(atexit._run_exitfuncs)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            _attempt(stream.flush)
    os._exit(status)


def end_with_thread(thread: Any) -> None:
    """In a child whose main thread is this one of the parent's: what it raises ends the child, as a program ends."""
    thread._invoke_excepthook = lambda thread: end_process(sys.exc_info()[1])


def _attempt(function: object) -> None:
    try:
        function()  # type: ignore[operator]
    except BaseException as error:
        atfork.write_unraisable(error, function)


def _status_of(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        _attempt(lambda: sys.excepthook(type(error), error, error.__traceback__))
        return 1
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    _attempt(lambda: print(error.code, file=sys.stderr))
    return 1
