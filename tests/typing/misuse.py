"""What a type checker must find: each line that is ignored here is wrong. Never run.

Unused ignores are errors, so that a line which is no longer found shows up.
"""

from __future__ import annotations

import forksafe
from forksafe import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore, local
from forksafe.testing import run_in_child


def needs_an_argument(number: int) -> None: ...


# Locks.

Lock(1)  # type: ignore[call-arg, arg-type]
Lock(True)  # type: ignore[call-arg, arg-type]
Lock(nonsense=1)  # type: ignore[call-arg]
Lock(on_orphan=3)  # type: ignore[arg-type]
Lock(on_orphan=needs_an_argument)  # type: ignore[arg-type]
Lock(hold=5.0)  # type: ignore[arg-type]
Lock(hold=True, hold_timeout="long")  # type: ignore[arg-type]
Lock(hold=True, hold_timeout=None)  # type: ignore[arg-type]
RLock(print)  # type: ignore[call-arg]
RLock(on_orphan=needs_an_argument)  # type: ignore[arg-type]
RLock(timeout=3)  # type: ignore[call-arg]
Lock().acquire("x")  # type: ignore[arg-type]
Lock().acquire(timeout=None)  # type: ignore[arg-type]
Lock().acquire(True, 1, 2)  # type: ignore[call-arg]
Lock().release(1)  # type: ignore[call-arg]
Lock().anything = 3  # type: ignore[attr-defined]
Lock()._is_owned()  # type: ignore[attr-defined]
RLock().locked_lock()  # type: ignore[attr-defined]
number: int = Lock().acquire().release()  # type: ignore[attr-defined]
lock: Lock = RLock()  # type: ignore[assignment]
rlock: RLock = Lock()  # type: ignore[assignment]
with Lock:  # type: ignore[attr-defined]
    pass


async def asynchronous() -> None:
    async with Lock():  # type: ignore[attr-defined]
        pass


# Conditions, events, barriers, semaphores, local.

Condition().wait("x")  # type: ignore[arg-type]
Condition().wait_for(True)  # type: ignore[arg-type]
Condition().notify("all")  # type: ignore[arg-type]
Event(True)  # type: ignore[call-arg]
Event().wait("x")  # type: ignore[arg-type]
Barrier()  # type: ignore[call-arg]
Barrier("2")  # type: ignore[arg-type]
Barrier(2, needs_an_argument)  # type: ignore[arg-type]
Barrier(2).parties = 3  # type: ignore[misc]
Semaphore("x")  # type: ignore[arg-type]
Semaphore(1.5)  # type: ignore[arg-type]
Semaphore(1, "restore")  # type: ignore[call-arg]
Semaphore(at_fork="forget")  # type: ignore[arg-type]
Semaphore().acquire(timeout="x")  # type: ignore[arg-type]
Semaphore().release("x")  # type: ignore[arg-type]
Semaphore()._value = 3  # type: ignore[misc]
BoundedSemaphore(1, at_fork="restore")  # type: ignore[call-arg]
bounded: BoundedSemaphore = Semaphore()  # type: ignore[assignment]


class Connections(local):
    def __init__(self, url: str) -> None:
        self.url = url


Connections()  # type: ignore[call-arg]
length: int = Connections("x").url  # type: ignore[assignment]


# Hooks.

forksafe.register_at_fork(print)  # type: ignore[call-arg]
forksafe.register_at_fork(before=3)  # type: ignore[arg-type]
forksafe.register_at_fork(before=needs_an_argument)  # type: ignore[arg-type]
forksafe.register_at_fork(after=print)  # type: ignore[call-arg]
forksafe.before(needs_an_argument)  # type: ignore[type-var]
forksafe.after_in_child(3)  # type: ignore[type-var]
forksafe.register_at_fork(before=print).run()  # type: ignore[attr-defined]


# Descriptors.

forksafe.close_on_fork("3")  # type: ignore[type-var]
forksafe.close_on_fork(None)  # type: ignore[type-var]
forksafe.close_on_fork(3).close()  # type: ignore[attr-defined]
forksafe.keep_on_fork(print)  # type: ignore[type-var]
forksafe.keep_on_fork()  # type: ignore[call-arg]


# Resources and pools.


def connect() -> list[int]:
    return []


forksafe.resource(3)  # type: ignore[call-overload]
forksafe.resource(needs_an_argument)  # type: ignore[arg-type]
forksafe.resource(connect, on_fork="forget")  # type: ignore[call-overload]
forksafe.resource(connect)().keys()  # type: ignore[attr-defined]
forksafe.ConnectionPool()  # type: ignore[call-arg]
forksafe.ConnectionPool(3)  # type: ignore[arg-type]
forksafe.ConnectionPool(connect, size=3)  # type: ignore[call-arg]
forksafe.ConnectionPool(connect, timeout="long")  # type: ignore[arg-type]
forksafe.ConnectionPool(connect).putconn(3)  # type: ignore[arg-type]
forksafe.ConnectionPool(connect).getconn("x")  # type: ignore[arg-type]
forksafe.ConnectionPool(connect).stats().pool_size = 3  # type: ignore[misc]


# The rest.

text: str = forksafe.generation()  # type: ignore[assignment]
forksafe.generation(1)  # type: ignore[call-arg]
forksafe.install("threading")  # type: ignore[call-arg, arg-type]
forksafe.install(connections="all")  # type: ignore[arg-type]
wrong: RLock = forksafe.protect(Lock())  # type: ignore[assignment]
forksafe.register_adapter(3)  # type: ignore[arg-type]
forksafe.nonsense  # type: ignore[attr-defined]
run_in_child(3)  # type: ignore[arg-type]
run_in_child(needs_an_argument)  # type: ignore[arg-type]
run_in_child(lambda: 3, timeout="long")  # type: ignore[arg-type]
run_in_child(lambda: 3).upper()  # type: ignore[attr-defined]
