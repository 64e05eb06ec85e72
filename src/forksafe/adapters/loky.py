"""The adapter for loky's executors, joblib's own copy of it among them: joblib.Parallel in a child.

Guarantees, in a child of a process that protected one: get_reusable_executor(), and so joblib, makes a new one; what
was submitted and not done has failed with InheritedFutureError; the inherited executor counts as shut down, and who
submits to it is told so. The parent's workers are neither told, joined nor signalled.

Why that survives fork: nothing of the parent's is closed, woken or freed; it is taken out of the executor and kept.
"""

from __future__ import annotations

import threading
from typing import Any

from forksafe.adapters.registry import register_adapter
from forksafe.atfork.child_exit import LOKY, disown_processes, disown_threads
from forksafe_core import atfork

__all__: list[str] = []


def _abandon(executor: Any) -> None:
    from forksafe.executors.inherited import settle

    atfork.keep_alive(dict(vars(executor)))
    manager, pending = executor._executor_manager_thread, executor._pending_work_items
    disown_processes(executor._processes.values())
    disown_threads([manager])
    executor._executor_manager_thread = None
    executor._processes, executor._pending_work_items = {}, {}
    executor._shutdown_lock = executor._flags.shutdown_lock = threading.Lock()
    executor._flags.shutdown = True
    for item in pending.values():
        settle(item.future)


for _module in LOKY:
    register_adapter(f"{_module}.ProcessPoolExecutor", reset=_abandon)
