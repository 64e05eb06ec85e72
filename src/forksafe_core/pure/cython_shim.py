"""What slots.py and checkout.py use of Cython and of their .pxd, for where they run uncompiled: there is no fork there.

Guarantees: critical_section() takes a lock of that object. The thread that has it can take it again, as a signal
handler or finaliser may do in the middle of a step; the step that was interrupted goes on with what it then finds.
Everything else does nothing, or what the C function of that name does.
"""

from __future__ import annotations

import _thread
import functools
import threading
import time
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

compiled = False
bint = bool
double = float
Py_ssize_t = longlong = ulonglong = int

NO_DEADLINE = 2**63 - 1
Lock = _thread.allocate_lock
address = id
monotonic_ns = time.monotonic_ns


def cclass(decorated: F) -> F:
    return decorated


final = no_gc = no_gc_clear = cclass


def freelist(size: int) -> Callable[[F], F]:
    return cclass


def cast(type: type[T], value: Any) -> T:
    result: T = value
    return result


def critical_section(guarded: Any) -> Any:
    """A context manager; as a decorator of a method, the object is the first argument."""
    if isinstance(guarded, FunctionType):

        @functools.wraps(guarded)
        def step(self: Any, *args: Any, **kwargs: Any) -> Any:
            with critical_section(self):
                return guarded(self, *args, **kwargs)

        return step
    return vars(guarded).get("_lock") or vars(guarded).setdefault("_lock", threading.RLock())


def deadline_after(seconds: float) -> int:
    return monotonic_ns() + int(min(seconds, 1e9) * 1e9)


def current_stamp() -> int:
    return 1


def is_inherited(slots: object) -> bool:
    return False


def run_due_hooks() -> None:
    pass


def keep_alive(value: object) -> None:
    pass
