"""The adapter for loky's executors, joblib's own copy of it among them: joblib.Parallel in a child.

Guarantees, in a child of a process that protected one: get_reusable_executor(), and so joblib, makes a new one. What
was submitted and not done has failed with InheritedFutureError. The inherited executor counts as shut down; submit()
says so. The parent's workers are neither told, joined nor signalled.

Why that survives fork: nothing of the parent's is closed, woken or freed; it is taken out of the executor and kept.
"""

from __future__ import annotations

import threading
from typing import Any

from forksafe.adapters.helpers import keep_attributes
from forksafe.adapters.registry import Adapter
from forksafe.atfork.child_exit import LOKY, disown_processes, disown_threads
from forksafe.executors.inherited import settle

__all__ = ["ADAPTERS"]


def _abandon(executor: Any) -> None:
    before = keep_attributes(executor)
    disown_processes(before["_processes"].values())
    disown_threads([before["_executor_manager_thread"]])
    executor._executor_manager_thread = None
    executor._processes, executor._pending_work_items = {}, {}
    executor._shutdown_lock = executor._flags.shutdown_lock = threading.Lock()
    executor._flags.shutdown = True
    for item in before["_pending_work_items"].values():
        settle(item.future)


ADAPTERS = dict.fromkeys([f"{module}.ProcessPoolExecutor" for module in LOKY], Adapter(reset=_abandon))
