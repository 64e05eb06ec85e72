"""The adapter for concurrent.futures' own ThreadPoolExecutor: protect(executor), and install() for each there is.

Guarantees, in a child of a process that protected one: it can be used at once, with threads of the child's own. What
was submitted and not done has failed there with InheritedFutureError; nothing of it is run a second time. If a task of
it has forked, the child ends when that task does: with the status of sys.exit(), or the traceback of an exception and
1. No thread of the parent's is waited for.

Why that survives fork: what belongs to the parent, the queue and the threads, is taken out of the executor and kept
for good; it is replaced before the child's own code runs. Who runs what is asked of the threads' frames when the
process forks; after a fork by C they are still to be seen in the child.

Not covered: an initializer or a callback that forks and then raises: the thread ends with it, and so does the child,
with status 0.
"""

from __future__ import annotations

import queue
import sys
import threading
from types import FrameType
from typing import Any

from forksafe.adapters.registry import drained, register_adapter
from forksafe.atfork.child_exit import disown_threads, end_with_thread
from forksafe_core import atfork

__all__: list[str] = []

_KEPT = "_forksafe_running"  # an attribute of executors: the futures that their threads are running at the fork


def _look_who_runs(executor: Any) -> bool:
    """Asked of the thread that forks, whether it holds the executor: it never does, but now is the time to look."""
    worker = getattr(sys.modules.get("concurrent.futures.thread"), "_worker", None)
    frames = sys._current_frames()
    running = {}
    for thread in list(executor._threads):
        frame = _find(frames.get(thread.ident), getattr(worker, "__code__", None))
        if frame is not None:
            running[thread.ident] = getattr(_local(frame, "work_item"), "future", None)
    vars(executor)[_KEPT] = running
    return False


def _find(frame: FrameType | None, code: Any) -> FrameType | None:
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame


def _local(frame: FrameType, name: str) -> Any:
    variables = frame.f_locals
    value = variables.get(name)
    if sys.version_info < (3, 13):
        variables.clear()  # a copy, which the frame would keep, and with it what the task was given
    return value


class _End:
    """In the queue of the parent's for the thread that forked, the only one to ask it for work: the child's end."""

    def __init__(self, future: Any) -> None:
        self.future = future

    def run(self, *context: Any) -> None:
        from forksafe.executors.inherited import end_with_task

        end_with_task(self.future)


def _renew(executor: Any) -> None:
    from forksafe.executors.inherited import settle

    threads, work, running = executor._threads, executor._work_queue, vars(executor).pop(_KEPT, {})
    for each in (threads, work, list(threads)):
        atfork.keep_alive(each)
    executor._threads = set()
    executor._work_queue = queue.SimpleQueue()
    executor._idle_semaphore = threading.Semaphore(0)
    executor._shutdown_lock = threading.Lock()
    disown_threads(threads)
    own = running.pop(threading.get_ident(), None)
    waiting = [getattr(item, "future", None) for item in drained(work)]
    for future in [*waiting, *running.values()]:
        if future is not None:
            settle(future)
    if threading.current_thread() in threads:
        end_with_thread(threading.current_thread())
        if own is not None:
            settle(own, is_here=True)
        work.put(_End(own))


register_adapter("concurrent.futures.thread.ThreadPoolExecutor", held=_look_who_runs, reset=_renew)
register_adapter("forksafe.ThreadPoolExecutor")  # derived from it, and needs nothing
register_adapter("forksafe.ProcessPoolExecutor")
