"""Typical use of forksafe, for type checkers: every line here is right. Never run."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

from typing_extensions import assert_type

import forksafe
from forksafe import Barrier, BoundedSemaphore, Condition, Event, Lock, RLock, Semaphore, local
from forksafe.testing import ChildError, ChildTimeout, run_in_child

# Making locks, and what their methods give.

lock = Lock()
lock = Lock(on_orphan=None)
lock = Lock(on_orphan=lambda: 3, hold=True, hold_timeout=2)
assert_type(lock, Lock)
assert_type(lock.acquire(), bool)
assert_type(lock.acquire(False), bool)
assert_type(lock.acquire(blocking=True, timeout=1.5), bool)
assert_type(lock.locked(), bool)
with lock:
    pass
with lock as taken:
    assert_type(taken, bool)

rlock = RLock(hold=True)
assert_type(rlock, RLock)
assert_type(rlock.acquire(timeout=1), bool)
assert_type(rlock.locked(), bool)
with rlock as taken:
    assert_type(taken, bool)


# They pass for threading's: other people's annotations take them.


def takes_standard_lock(lock: threading.Lock) -> None: ...
def takes_standard_rlock(lock: threading.RLock) -> None: ...
def takes_standard_condition(condition: threading.Condition) -> None: ...
def takes_standard_event(event: threading.Event) -> None: ...
def takes_standard_barrier(barrier: threading.Barrier) -> None: ...
def takes_standard_semaphore(semaphore: threading.Semaphore) -> None: ...
def takes_standard_bounded(semaphore: threading.BoundedSemaphore) -> None: ...
def takes_standard_local(values: threading.local) -> None: ...


takes_standard_lock(Lock())
takes_standard_rlock(RLock())
takes_standard_condition(Condition())
takes_standard_event(Event())
takes_standard_barrier(Barrier(2))
takes_standard_semaphore(Semaphore())
takes_standard_semaphore(BoundedSemaphore())
takes_standard_bounded(BoundedSemaphore())
takes_standard_local(local())
threading.Condition(Lock())
threading.Condition(RLock())


# Subclasses. Since they pass for threading's locks, which are final, mypy has to be told.


class NamedLock(Lock):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        super().__init__(on_orphan=self.repair)
        self.name = name

    def repair(self) -> None: ...


with NamedLock("x") as taken:
    assert_type(taken, bool)


class Account:
    """A lock that repairs what it guards."""

    def __init__(self) -> None:
        self._lock = Lock(on_orphan=self._repair)
        self._total = 0

    def _repair(self) -> None:
        self._total = 0

    def add(self, amount: int) -> int:
        with self._lock:
            self._total += amount
            return self._total


assert_type(Account().add(3), int)


# Conditions, events, barriers, semaphores, local.

condition = Condition()
condition = Condition(Lock())
condition = Condition(lock=RLock())
with condition:
    assert_type(condition.wait(), bool)
    assert_type(condition.wait(timeout=1), bool)
    assert_type(condition.wait_for(lambda: "x", 1.0), str)
    condition.notify()
    condition.notify(n=2)
    condition.notify_all()

event = Event()
event.set()
event.clear()
assert_type(event.is_set(), bool)
assert_type(event.wait(0.5), bool)

barrier = Barrier(2, action=lambda: print("together"), timeout=1)
assert_type(barrier.wait(), int)
assert_type(barrier.n_waiting, int)
assert_type(barrier.parties, int)
assert_type(barrier.broken, bool)
barrier.abort()
barrier.reset()

semaphore = Semaphore()
semaphore = Semaphore(3, at_fork="restore")
semaphore = Semaphore(value=3, at_fork="keep")
bounded = BoundedSemaphore(value=3)
assert_type(semaphore.acquire(False), bool)
assert_type(bounded.acquire(timeout=None), bool)
semaphore.release(2)
bounded.release()
with semaphore, bounded as taken:
    assert_type(taken, bool)


class Connections(local):
    def __init__(self, url: str) -> None:
        self.url = url
        self.open: list[str] = []


values = local()
values.anything = 3
assert_type(local().anything, Any)
assert_type(Connections("x").url, str)


# Hooks.


def hook() -> None: ...


registration = forksafe.register_at_fork(before=hook, after_in_parent=lambda: 3, after_in_child=values.clear)
assert_type(registration, forksafe.Registration)
registration.unregister()


@forksafe.before
def first() -> None: ...


@forksafe.after_in_parent
def second() -> int:
    return 3


@forksafe.after_in_child
def third() -> list[int]:
    return []


assert_type(second(), int)
assert_type(third(), "list[int]")
as_callable: Callable[[], int] = second


# Descriptors.

with socket.create_server(("127.0.0.1", 0)) as server:
    assert_type(forksafe.close_on_fork(server), socket.socket)
    assert_type(forksafe.keep_on_fork(server), socket.socket)
assert_type(forksafe.close_on_fork(3), int)
connect = forksafe.close_on_fork(socket.create_connection)
assert_type(connect(("127.0.0.1", 1)), socket.socket)


@forksafe.close_on_fork
def opened(path: str) -> int:
    return 3


assert_type(opened("x"), int)


# Resources.


def connect_anew() -> socket.socket:
    return socket.socket()


def connect_and_clean_up() -> Generator[socket.socket, None, None]:
    yield socket.socket()


per_process = forksafe.PerProcess(connect_anew)
assert_type(per_process, forksafe.PerProcess[socket.socket])
assert_type(per_process(), socket.socket)
assert_type(per_process.peek(), socket.socket | None)
assert_type(per_process.made, bool)

db = forksafe.resource(connect_anew)
assert_type(db, forksafe.Resource[socket.socket])
assert_type(db(), socket.socket)
assert_type(db.made, bool)
db.close()
assert_type(forksafe.resource(connect_and_clean_up)(), socket.socket)
assert_type(forksafe.resource(connect_anew, per_thread=True, close=socket.socket.close)(), socket.socket)
assert_type(forksafe.resource(connect_anew, fds=lambda sock: [sock.fileno()], on_fork="raise")(), socket.socket)


@forksafe.resource
def session() -> dict[str, int]:
    return {}


@forksafe.resource(on_fork="transfer", fds=())
def transferred() -> Iterator[int]:
    return iter([3])


assert_type(session(), dict[str, int])


# Pools.

pool = forksafe.ConnectionPool(connect_anew, min_size=1, max_size=4, timeout=1.5, name="main")
assert_type(pool, forksafe.ConnectionPool[socket.socket])
with pool.connection() as sock:
    assert_type(sock, socket.socket)
with pool.connection(timeout=2) as sock:
    assert_type(sock, socket.socket)
sock = pool.getconn(timeout=1)
pool.putconn(sock)
assert_type(pool.stats(), forksafe.PoolStats)
assert_type(pool.stats().pool_size, int)
pool.resize(2, 8)
with pool:
    pass
checked = forksafe.ConnectionPool(
    connect_anew, max_size=None, min_size=1, check=socket.socket.getpeername, reset=None, close=socket.socket.close
)
checked.close()


# Executors and threads.

executor = forksafe.ThreadPoolExecutor(4, "worker", fork_grace=2.5)
assert_type(executor.submit(pow, 2, 5).result(timeout=1), int)
assert_type(executor.submit(str, 5), "forksafe.Future[str]")
assert_type(list(executor.map(str, [1, 2], timeout=3)), "list[str]")
as_standard: concurrent.futures.Executor = executor
future: concurrent.futures.Future[str] = executor.submit(str, 5)
with forksafe.ProcessPoolExecutor(2, restart=True) as workers:
    assert_type(workers.submit(str, 5), "forksafe.Future[str]")
broken: type[concurrent.futures.BrokenExecutor] = forksafe.InheritedFutureError
with forksafe.quiesce(2.0, strict=True) as busy:
    assert_type(busy[0].where, str)


@forksafe.background_thread(interval=10)
def flush() -> None: ...


assert_type(flush, forksafe.BackgroundThread)
assert_type(flush.stop(5), bool)
flush.start()
assert_type(forksafe.get_start_method(), str)
process = forksafe.get_context().Process(target=print, daemon=True)
assert_type(process.exitcode, "int | None")


# The rest.

assert_type(forksafe.generation(), int)
assert_type(forksafe.__version__, str)
forksafe.install()
forksafe.install(connections=True)
forksafe.uninstall()
assert_type(forksafe.protect(threading.Lock()), threading.Lock)
assert_type(forksafe.protect(Account()), Account)
assert_type(forksafe.protect(Account(), verbose=True), Account)
assert_type(forksafe.unprotect(Account()), Account)
forksafe.register_adapter("some.Client", connections=lambda client: [client.sock])
forksafe.register_finder("some.Connection", lambda connection: [connection.fd])


@forksafe.protect
class Guarded:
    def __init__(self, size: int) -> None:
        self.lock = threading.Lock()
        self.size = size


assert_type(Guarded(3), Guarded)
forksafe.register_adapter(Account, parts=lambda account: [account._lock], reset=lambda account: None)

assert_type(run_in_child(lambda: 3), int)
assert_type(run_in_child(lambda: {"a": [1.5]}, timeout=2, c_stacks=False), "dict[str, list[float]]")
assert_type(forksafe.testing.run_in_child(hook, 5.0), None)
try:
    run_in_child(hook)
except ChildTimeout as timeout:
    assert_type(timeout.stacks, str)
except ChildError as error:
    assert_type(error.status, "int | None")
problem: TimeoutError = ChildTimeout("x")
warning: type[RuntimeWarning] = forksafe.ForkHazardWarning

for hazard in forksafe.hazards(["lock", "thread"], severity="warning"):
    assert_type(hazard, forksafe.Hazard)
    assert_type(hazard.since, "float | None")
    assert_type(hazard.as_dict(), "dict[str, Any]")
with forksafe.guard("raise", kinds=["connection"], modules=["app"], ignore=["app.metrics"]) as guarding:
    assert_type(guarding, forksafe.Guard)
    guarding.off()
try:
    forksafe.guard(severity="danger")
except forksafe.ForkHazardError as refused:
    assert_type(refused.hazards, "list[forksafe.Hazard]")
forksafe.track_locks()
forksafe.track_locks(False)
