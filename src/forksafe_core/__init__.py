"""forksafe's core: how forks happen, and locks that know. It has no opinion and never imports forksafe.

fork_state.h/.c      the generation, thread tokens, who survived; the pthread_atfork handler
descriptors.h/.c     flagged descriptors, replaced in a child before any Python runs
parking.h/.c         sleep while a word has a value
lock_word.h/.c       a lock as one word that names its holder
semaphore_word.h/.c  a count that threads wait for, as one word
permits.h/.c         which thread holds how many of a semaphore's permits
context_methods.h/.c __enter__ and __exit__ that cost a `with` statement little
fast_new.h/.c       Lock() without the detour of an ordinary call
lock_tracking.h/.c   since when a lock is held, while somebody wants to know
thread_states.h      what the interpreter's end asks of threads that vanished
glibc_floor.h        a build on a new Linux runs on an old one
_atfork.pyx          binds fork_state and descriptors
_locks.pyx           Lock, RLock
lock_extras.pxi      their on_orphan and hold
_semaphores.pyx      Semaphore, BoundedSemaphore
_local.pyx           local
_per_process.pyx     PerProcess
_futures.pyx         futures, and the queue between an executor and its threads
future_state.pxi, work_queue.pxi  the two
_slots, _checkout    the state of a pool; compiled from pure/slots.py and pure/checkout.py
_pure.py             the same names where there is no fork

IMPL is "compiled" where there is fork, else "pure". A platform with fork has no fallback: locks that only look
fork-safe would be worse than an error.
"""

import os as _os

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING or hasattr(_os, "fork"):  # type checkers see the compiled core everywhere
    try:
        import forksafe_core._atfork as atfork
        from forksafe_core._checkout import PoolCore
        from forksafe_core._futures import FutureState, WorkQueue
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
        from forksafe_core._slots import Entry, Slots, Waiter
    except ImportError as error:
        raise ImportError(
            f"forksafe's compiled core does not load ({error}), and a platform with fork needs it. Install it again "
            "for this interpreter, with a C compiler and Python's headers at hand: "
            "python -m pip install --force-reinstall --no-cache-dir forksafe"
        ) from error
    IMPL = "compiled"
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
