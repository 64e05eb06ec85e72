"""The core's names for platforms without fork: threading's types, and a generation that is always 0.

Keyword arguments that speak of forks are checked and then have nothing to do. Lock and RLock are threading's own
objects; isinstance() with the classes here works.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable
from threading import local
from typing import Any, final

from forksafe_core.pure.checkout import PoolCore
from forksafe_core.pure.slots import Entry, Slots, Waiter

__all__ = [
    "BoundedSemaphore",
    "Entry",
    "Lock",
    "PoolCore",
    "RLock",
    "Semaphore",
    "Slots",
    "Waiter",
    "atfork",
    "held_across_forks",
    "hold_timeout",
    "holder",
    "local",
    "set_recorder",
    "taken_at",
]

_make: dict[str, Callable[[], Any]] = {"Lock": threading.Lock, "RLock": threading.RLock}


class _Factory(type):
    def __call__(
        cls, *, on_orphan: Callable[[], object] | None = None, hold: bool = False, hold_timeout: float = 5.0
    ) -> Any:
        name = cls.__name__
        if on_orphan is not None and not callable(on_orphan):
            given = type(on_orphan).__name__
            raise TypeError(f"{name}(on_orphan=...) takes a callable without arguments, not {given!r}")
        if not 0 <= hold_timeout <= threading.TIMEOUT_MAX:
            raise ValueError(
                f"{name}(hold_timeout=...) takes seconds from 0 to threading.TIMEOUT_MAX, not {hold_timeout}"
            )
        return _make[name]()

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, type(_make[cls.__name__]()))


@final
class Lock(metaclass=_Factory):
    """threading.Lock: there is no fork here."""

    def __init_subclass__(cls) -> None:
        raise TypeError("forksafe.Lock is threading's here, where there is no fork: no acceptable base type")


@final
class RLock(metaclass=_Factory):
    """threading.RLock: there is no fork here."""

    def __init_subclass__(cls) -> None:
        raise TypeError("forksafe.RLock is threading's here, where there is no fork: no acceptable base type")


class Semaphore(threading.Semaphore):
    __module__ = "forksafe"

    def __init__(self, value: int = 1, *, at_fork: str = "keep") -> None:
        if at_fork not in ("keep", "restore"):
            raise ValueError(f"{type(self).__name__}(at_fork=...) takes 'keep' or 'restore', not {at_fork!r}")
        super().__init__(value)


class BoundedSemaphore(threading.BoundedSemaphore, Semaphore):
    __module__ = "forksafe"

    def __init__(self, value: int = 1) -> None:
        threading.BoundedSemaphore.__init__(self, value)


def holder(lock: object) -> int:
    return 0


def hold_timeout(lock: object) -> None:
    return None


def taken_at(lock: object) -> None:
    return None


def set_recorder(recorder: object, describe: object = None) -> None:
    return None


def held_across_forks() -> list[Any]:
    return []


class _Unraisable:
    def __init__(self, exception: BaseException) -> None:
        self.exception = exception

    def __del__(self) -> None:
        raise self.exception


def _write_unraisable(exception: BaseException, where: object) -> None:
    hook = sys.unraisablehook

    def report(unraisable: Any) -> None:  # only the interpreter can make one
        hook(type(unraisable)((type(exception), exception, exception.__traceback__, None, where)))

    sys.unraisablehook = report
    try:
        _Unraisable(exception)
    finally:
        sys.unraisablehook = hook


atfork = types.SimpleNamespace(
    generation=lambda: 0,
    token=threading.get_ident,
    gone=lambda token: False,
    ident_of=lambda token: token,
    state=lambda: {
        "generation": 0,
        "last_token": 0,
        "watermark": 0,
        "survivor": 0,
        "late_forks": 0,
        "left_shared": 0,
        "wipes": False,
    },
    flag=lambda fd: True,
    unflag=lambda fd: False,
    is_flagged=lambda fd: False,
    flagged=list,
    tombstone=lambda fd: None,
    call_soon=lambda function: False,
    forget_thread=lambda native_id: None,
    keep_alive=lambda obj: None,
    set_late_hooks=lambda hooks: None,
    mark_settled=lambda: False,
    set_tracking=lambda on: None,
    exchange_forking=lambda token: 0,
    write_unraisable=_write_unraisable,
)
