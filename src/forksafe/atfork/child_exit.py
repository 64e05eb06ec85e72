"""The exit of a child: it ends as a program does, and without what its parent owns.

Guarantees
  - Where a worker's task forks, the child ends with that task: atexit functions run, buffers are written, and the
    status is that of sys.exit(), or 1 with a traceback. Returning from the thread would do none of that.
  - The parent's processes and threads that are disowned are neither signalled, woken nor joined at the child's exit.
    Nothing is imported for that. The caller keeps alive what the standard library's lists alone referred to.

Why that survives fork: all of it is done in the child, to the child's copies.

Not covered: what other libraries registered with atexit runs in the child as in the parent.
"""

from __future__ import annotations

import os
import sys
import threading

from forksafe_core import atfork

__all__ = [
    "LOKY",
    "disown_parents_processes",
    "disown_processes",
    "disown_threads",
    "end_process",
    "end_with_thread",
    "run_due_hooks_at_exit",
]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

LOKY = ("loky.process_executor", "joblib.externals.loky.process_executor")
# Where executors list the threads that they join.
_JOINED = (
    ("concurrent.futures.thread", "_threads_queues"),
    *((module, "_threads_wakeups") for module in ("concurrent.futures.process", *LOKY)),
)
_runs_due_hooks = False


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
    """In a child that has this thread of the parent as its main thread: what the thread raises ends the child."""
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


def run_due_hooks_at_exit() -> None:
    """Have a child of a fork that ran no hooks run them at its exit at the latest, before concurrent.futures' exit."""
    global _runs_due_hooks
    if not _runs_due_hooks:
        _runs_due_hooks = True
        threading._register_atexit(atfork.generation)  # type: ignore[attr-defined]


def disown_processes(processes: Iterable[Any]) -> None:
    _children().difference_update(processes)


def disown_parents_processes() -> None:
    """Of every kind. One that was just being started is known nowhere else."""
    disown_processes([each for each in list(_children()) if each._parent_pid != os.getpid()])


def _children() -> set[Any]:
    found: set[Any] = getattr(sys.modules.get("multiprocessing.process"), "_children", set())
    return found


def disown_threads(threads: Iterable[Any]) -> None:
    threads = [each for each in threads if each is not None]
    for module, name in _JOINED:
        joined: Any = getattr(sys.modules.get(module), name, {})
        for thread in threads:
            joined.pop(thread, None)
