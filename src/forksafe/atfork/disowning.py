"""In a child: what the standard library would signal, wake or join at the exit is the parent's, and off its lists.

Guarantees: nothing is imported for it, and nobody is told. Whoever calls keeps alive what only those lists did.
"""

from __future__ import annotations

import os
import sys

__all__ = ["LOKY", "disown_parents_processes", "disown_processes", "disown_threads"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

LOKY = ("loky.process_executor", "joblib.externals.loky.process_executor")
# Where executors list their threads.
_JOINED = (
    ("concurrent.futures.thread", "_threads_queues"),
    *((module, "_threads_wakeups") for module in ("concurrent.futures.process", *LOKY)),
)


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
