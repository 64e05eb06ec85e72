"""protect(): standard objects that exist already, made usable in children."""

from __future__ import annotations

import functools
import gc
import logging
import queue
import sys
import threading
import time
import weakref

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.hangs import assert_child_hangs
from support.threads import threads

MAKERS = {
    "Lock": (threading.Lock, lambda x: x.acquire, lambda x: x.release),
    "RLock": (threading.RLock, lambda x: x.acquire, lambda x: x.release),
    "Condition": (threading.Condition, lambda x: x.acquire, lambda x: x.release),
    "Event": (threading.Event, lambda x: x._cond.acquire, lambda x: x._cond.release),
    "Semaphore": (threading.Semaphore, lambda x: x._cond.acquire, lambda x: x._cond.release),
    "Barrier": (lambda: threading.Barrier(2), lambda x: x._cond.acquire, lambda x: x._cond.release),
    "Queue": (queue.Queue, lambda x: x.mutex.acquire, lambda x: x.mutex.release),
    "PriorityQueue": (queue.PriorityQueue, lambda x: x.mutex.acquire, lambda x: x.mutex.release),
    "Handler": (logging.NullHandler, lambda x: x.acquire, lambda x: x.release),
}
USES = {
    "Lock": lambda x: x.acquire(),
    "RLock": lambda x: x.acquire(),
    "Condition": lambda x: (x.acquire(), x.notify()),
    "Event": lambda x: (x.set(), x.is_set()),
    "Semaphore": lambda x: x.acquire(),
    "Barrier": lambda x: x.abort(),
    "Queue": lambda x: (x.put(1), x.get()),
    "PriorityQueue": lambda x: (x.put(1), x.get()),
    "Handler": lambda x: x.acquire(),
}


@pytest.mark.parametrize("kind", list(MAKERS))
def test_held_by_another_thread_is_usable(kind, busy):
    make, enter, leave = MAKERS[kind]
    obj = make()
    assert forksafe.protect(obj) is obj
    busy(enter(obj), leave(obj))
    assert run_in_child(lambda: bool(USES[kind](obj)) or True)
    forksafe.unprotect(obj)


@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "Handler"])  # logging sees to its handlers
def test_control_unprotected_it_hangs(kind, busy):
    make, enter, leave = MAKERS[kind]
    obj = make()
    busy(enter(obj), leave(obj))
    assert_child_hangs(lambda: bool(USES[kind](obj)) or True, "test_protect.py")


def test_unprotect(busy):
    lock = forksafe.protect(threading.Lock())
    forksafe.unprotect(lock)
    with pytest.raises(ValueError, match="not protected"):
        forksafe.unprotect(lock)
    busy(lock.acquire, lock.release)
    assert run_in_child(lambda: lock.acquire(timeout=0.1)) is False


def test_rlock_held_by_forking_thread(busy):
    """It is kept in the child."""
    lock = forksafe.protect(threading.RLock())
    busy(lambda: None)

    def child():
        owned = lock._is_owned()
        lock.release()
        return owned

    with lock:
        assert run_in_child(child)


def test_lock_held_by_only_thread(tmp_path):
    from support.programs import python, script, succeeds

    program = script(
        tmp_path / "program.py",
        """
        import os, threading, forksafe
        lock = forksafe.protect(threading.Lock())
        with lock:
            pid = os.fork()
            if pid == 0 and not lock.locked():
                os._exit(3)
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    """,
    )
    succeeds(python(program))


def test_queue_with_waiters(busy):
    """In the child it keeps its items and forgets its waiters."""
    items = forksafe.protect(queue.Queue())
    items.put("a")
    empty = forksafe.protect(queue.Queue())

    def child():
        got = []
        with threads(lambda: got.append(empty.get(timeout=5)), 1):
            time.sleep(0.05)
            empty.put("b")
        return items.get(timeout=1), got

    with threads(lambda: empty.get(timeout=20), 2):
        time.sleep(0.05)
        try:
            assert run_in_child(child) == ("a", ["b"])
        finally:
            empty.put(1)
            empty.put(2)


def test_event_keeps_its_flag(busy):
    event = forksafe.protect(threading.Event())
    event.set()
    assert run_in_child(event.is_set)


def test_class_decorator(busy):
    @forksafe.protect
    class Client:
        def __init__(self, name):
            self.name = name
            self.lock = threading.Lock()
            self.tasks = queue.Queue()

    class Special(Client):
        def __init__(self):
            super().__init__("special")
            self.more = threading.Lock()

    client, special = Client("a"), Special()
    assert (client.name, special.name, Client.__name__) == ("a", "special", "Client")
    for lock in (client.lock, client.tasks.mutex, special.lock, special.more):
        busy(lock.acquire, lock.release)

    def child():
        client.tasks.put(1)
        return [lock.acquire(timeout=1) for lock in (client.lock, special.lock, special.more)]

    assert run_in_child(child) == [True] * 3


def test_instance_and_slots(busy):
    class Slotted:
        __slots__ = ("__weakref__", "lock", "unset")

        def __init__(self):
            self.lock = threading.Lock()

    slotted = forksafe.protect(Slotted())
    busy(slotted.lock.acquire, slotted.lock.release)
    assert run_in_child(lambda: slotted.lock.acquire(timeout=1))


def test_attribute_replaced_later(busy):
    """An attribute that is replaced later counts."""

    class Client:
        def __init__(self):
            self.lock = threading.Lock()

    client = forksafe.protect(Client())
    client.lock = threading.Lock()
    busy(client.lock.acquire, client.lock.release)
    assert run_in_child(lambda: client.lock.acquire(timeout=1))


def test_held_weakly():
    from forksafe.adapters.protect import _protected

    gc.collect()
    before = len(_protected)
    obj = forksafe.protect(queue.Queue())
    assert len(_protected) == before + 1
    del obj
    gc.collect()
    assert len(_protected) == before


def test_freed_at_once():
    """protect() leaves no reference cycle: without references the object is freed, not when the collector runs."""

    class Client:
        def __init__(self):
            self.lock = threading.Lock()
            self.tasks = [queue.Queue()]

    client = forksafe.protect(Client())
    run_in_child(lambda: None)
    reference = weakref.ref(client)
    gc.disable()
    try:
        del client
        assert reference() is None
    finally:
        gc.enable()


def test_protecting_twice_is_once():
    from forksafe.adapters.protect import _protected

    before = len(_protected)
    lock = forksafe.protect(forksafe.protect(threading.Lock()))
    assert len(_protected) == before + 1
    forksafe.unprotect(lock)


def test_forksafes_own_types_need_nothing(busy):
    lock = forksafe.protect(forksafe.Lock())
    with lock:
        assert run_in_child(lock.locked)


def test_after_a_c_fork(busy, fork):
    lock = forksafe.protect(threading.RLock())
    busy(lock.acquire, lock.release)

    def child():
        forksafe.generation()
        return lock.acquire(timeout=1)

    assert run_in_child(child, fork=fork)


def test_adapter_for_another_type(busy):
    class Wrapped:
        def __init__(self):
            self.inner = {"lock": threading.Lock()}
            self.connected = True

    forksafe.register_adapter(
        Wrapped, parts=lambda obj: obj.inner.values(), reset=lambda obj: setattr(obj, "connected", False)
    )
    wrapped = forksafe.protect(Wrapped())
    busy(wrapped.inner["lock"].acquire, wrapped.inner["lock"].release)
    assert run_in_child(lambda: (wrapped.inner["lock"].acquire(timeout=1), wrapped.connected)) == (True, False)
    assert wrapped.connected


def test_bad_input():
    with pytest.raises(TypeError, match=r"can do nothing for a builtins\.dict"):
        forksafe.protect({})
    with pytest.raises(TypeError, match=r"SimpleQueue keeps its lock where Python cannot reach it"):
        forksafe.protect(queue.SimpleQueue())
    with pytest.raises(TypeError, match="takes a type first"):
        forksafe.register_adapter(3)

    class Slotted:
        __slots__ = ("lock",)

        def __init__(self):
            self.lock = threading.Lock()

    with pytest.raises(TypeError, match="__weakref__"):
        forksafe.protect(Slotted())
    with pytest.raises(TypeError, match="__weakref__"):
        forksafe.protect(Slotted)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="functools.cached_property has no lock from 3.12 on")
def test_cached_property(busy):
    class Thing:
        @functools.cached_property
        def value(self):
            return 1

    descriptor = forksafe.protect(Thing.__dict__["value"])
    busy(descriptor.lock.acquire, descriptor.lock.release)
    assert run_in_child(lambda: Thing().value) == 1
