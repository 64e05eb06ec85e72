"""forksafe's core: how forks happen, and locks, values, futures and pool slots that know of them.

A module belongs here if it needs the fork state: the generation, thread tokens, or which threads vanished. It has no
opinion on what a program should do, and never imports forksafe.

native/ is C without Python's API where the fork handler runs it; the Cython modules bind it; pure/ has the same names
where there is no fork. IMPL is "compiled" where there is fork, else "pure". A platform with fork has no fallback:
locks that only look fork-safe would be worse than an error.
"""

import os as _os

TYPE_CHECKING = False  # importing typing takes longer than all the rest


def _not_loaded(error: ImportError) -> ImportError:
    return ImportError(
        f"forksafe's compiled core does not load ({error}), and a platform with fork needs it. Install it again "
        "for this interpreter, with a C compiler and Python's headers at hand: "
        "python -m pip install --force-reinstall --no-cache-dir forksafe"
    )


if TYPE_CHECKING or hasattr(_os, "fork"):  # type checkers see the compiled core everywhere
    try:
        import forksafe_core._atfork as atfork
        from forksafe_core._local import local
        from forksafe_core._locks import (
            Lock,
            RLock,
            held_across_forks,
            hold_timeout,
            holder,
            set_recorder,
            taken_at,
        )
        from forksafe_core._per_process import PerProcess
        from forksafe_core._semaphores import BoundedSemaphore, Semaphore
    except ImportError as error:
        raise _not_loaded(error) from error
    IMPL = "compiled"
    if TYPE_CHECKING:
        from forksafe_core._checkout import PoolCore
        from forksafe_core._futures import FutureState, WorkQueue
        from forksafe_core._slots import Entry, Slots, Waiter
else:
    from forksafe_core.pure.locks import (
        BoundedSemaphore,
        Entry,
        Lock,
        PoolCore,
        RLock,
        Semaphore,
        Slots,
        Waiter,
        atfork,
        held_across_forks,
        hold_timeout,
        holder,
        local,
        set_recorder,
        taken_at,
    )
    from forksafe_core.pure.per_process import PerProcess

    IMPL = "pure"
    FutureState = WorkQueue = None  # concurrent.futures' own classes serve there

__all__ = [
    "IMPL",
    "BoundedSemaphore",
    "Entry",
    "FutureState",
    "Lock",
    "PerProcess",
    "PoolCore",
    "RLock",
    "Semaphore",
    "Slots",
    "Waiter",
    "WorkQueue",
    "atfork",
    "held_across_forks",
    "hold_timeout",
    "holder",
    "local",
    "set_recorder",
    "taken_at",
]

# Pools and executors need these; a program without any does not load them.
_at_first_use = {
    "Entry": "_slots",
    "FutureState": "_futures",
    "PoolCore": "_checkout",
    "Slots": "_slots",
    "Waiter": "_slots",
    "WorkQueue": "_futures",
}

if not TYPE_CHECKING:  # to a type checker it would mean that any name exists

    def __getattr__(name):
        if name not in _at_first_use:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = __import__(f"{__name__}.{_at_first_use[name]}", fromlist=[name])
        except ImportError as error:
            raise _not_loaded(error) from error
        globals()[name] = value = getattr(module, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
