"""Hazards that are executors, pools, queue listeners and event loops of the standard library, if unprotected.

Guarantees: forksafe's own and those given to protect() are no hazards. Nothing that could wait is called.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from typing import Any

from forksafe.diagnostics.hazard import Finders, Hazard
from forksafe.introspection.exemptions import is_exempt
from forksafe.introspection.stacks import has_single_stack
from forksafe.introspection.static import mro_of

__all__ = ["FINDERS"]

_KINDS = {
    ("concurrent.futures.thread", "ThreadPoolExecutor"): "forksafe.ThreadPoolExecutor",
    ("concurrent.futures.process", "ProcessPoolExecutor"): "forksafe.ProcessPoolExecutor",
    ("multiprocessing.pool", "Pool"): "forksafe.get_context().Pool",
    ("logging.handlers", "QueueListener"): "",
}


def _known() -> dict[type, str]:
    return {
        cls: ours
        for (module, name), ours in _KINDS.items()
        if isinstance(cls := getattr(sys.modules.get(module), name, None), type)
    }


def _objects() -> Iterable[Hazard]:
    known = _known()
    loop_type: Any = getattr(sys.modules.get("asyncio.base_events"), "BaseEventLoop", None)
    wanted = {*known, loop_type} - {None}
    if not wanted:
        return
    of_type: dict[type, Any] = {}  # by type: the wanted one that it is
    for obj in _own_loop() if has_single_stack() else gc.get_objects():  # an executor in use has threads
        kind = type(obj)
        if kind not in of_type:
            of_type[kind] = next((each for each in mro_of(kind) if each in wanted), None)
        if of_type[kind] is not None and not is_exempt(obj):
            yield from _loop(obj) if of_type[kind] is loop_type else _executor(obj, of_type[kind], known[of_type[kind]])


def _own_loop() -> list[Any]:
    """The loop that the calling thread runs."""
    events = sys.modules.get("asyncio.events")
    loop = events._get_running_loop() if events is not None else None
    return [] if loop is None else [loop]


def _executor(obj: Any, cls: type, ours: str) -> Iterable[Hazard]:
    workers = _workers_of(obj)
    if not workers:
        return
    name = f"{type(obj).__module__}.{type(obj).__qualname__}"
    yield Hazard(
        "executor",
        "danger",
        f"a {name}, {workers}",
        "its threads do not exist in the child: what is submitted there is never done, and futures never end",
        (f"use {ours}, " if ours else "use ") + "forksafe.protect() on it, or forksafe run",
        module=type(obj).__module__.partition(".")[0],
    )


def _workers_of(obj: Any) -> str:
    """In words; "" if it has no threads and processes."""
    threads = getattr(obj, "_threads", None)
    if threads:
        return f"with {len(threads)} threads"
    processes = getattr(obj, "_processes", None)
    if isinstance(processes, dict) and processes:
        return f"with {len(processes)} processes"
    if getattr(obj, "_pool", None):
        return f"with {len(obj._pool)} workers"
    return "running" if getattr(obj, "_thread", None) is not None else ""


def _loop(obj: Any) -> Iterable[Hazard]:
    if not obj.is_running():
        return
    yield Hazard(
        "event loop",
        "warning",
        f"an event loop that is running ({type(obj).__qualname__})",
        "if another thread runs it, the child waits for it for ever; its selector is shared",
        "forksafe.protect() it, make it after the fork, or make it anew in a forksafe.after_in_child hook",
        module=type(obj).__module__.partition(".")[0],
    )


FINDERS: Finders = {_objects: ("executor", "event loop")}
