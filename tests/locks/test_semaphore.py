"""Semaphore and BoundedSemaphore in a child, and as threading's."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.hangs import assert_child_hangs
from support.threads import threads


def test_bounded_restores_permits(busy, fork):
    """A child gets back the permits of threads that vanished."""
    semaphore = forksafe.BoundedSemaphore(3)
    for _ in range(3):
        busy(semaphore.acquire, semaphore.release)
    assert not semaphore.acquire(False)

    def child():
        got = [semaphore.acquire(False) for _ in range(4)]
        for _ in range(3):
            semaphore.release()
        with pytest.raises(ValueError, match="released too many times"):
            semaphore.release()
        return got

    assert run_in_child(child, fork=fork) == [True, True, True, False]
    assert not semaphore.acquire(False)


def test_control_threadings_stays_empty(busy):
    semaphore = threading.BoundedSemaphore(1)
    busy(semaphore.acquire, semaphore.release)
    assert_child_hangs(lambda: semaphore.acquire() and None, "threading.py")


def test_permits_of_survivor(busy, fork):
    """The permits of the thread that forked stay taken."""
    semaphore = forksafe.BoundedSemaphore(3)
    busy(semaphore.acquire, semaphore.release)
    semaphore.acquire()

    def child():
        free = semaphore._value
        semaphore.release()
        return free, semaphore._value

    assert run_in_child(child, fork=fork) == (2, 3)
    assert semaphore._value == 1


def test_grandchild(busy, fork):
    semaphore = forksafe.BoundedSemaphore(2)
    busy(semaphore.acquire, semaphore.release)

    def child():
        semaphore.acquire()
        return run_in_child(lambda: semaphore._value, fork=fork), semaphore._value

    assert run_in_child(child, fork=fork) == (1, 1)


def test_restored_once(busy):
    """Permits are restored once, however many threads use the semaphore first."""
    semaphore = forksafe.BoundedSemaphore(5)
    for _ in range(5):
        busy(semaphore.acquire, semaphore.release)

    def child():
        start = threading.Barrier(12)
        got = []

        def take():
            start.wait(5)
            got.append(semaphore.acquire(False))

        with threads(take, 12):
            pass
        return sum(got), semaphore._value

    assert run_in_child(child) == (5, 0)


def test_semaphore_keeps_its_count(busy, fork):
    messages = forksafe.Semaphore(2)
    busy(messages.acquire)
    assert run_in_child(lambda: (messages.acquire(False), messages.acquire(False)), fork=fork) == (True, False)


def test_semaphore_with_restore(busy, fork):
    semaphore = forksafe.Semaphore(2, at_fork="restore")
    busy(semaphore.acquire, semaphore.release)
    busy(semaphore.acquire, semaphore.release)
    assert run_in_child(lambda: [semaphore.acquire(False) for _ in range(3)], fork=fork) == [True, True, False]


def test_restore_keeps_added(fork):
    """Permits that were added stay added when those of vanished threads are restored."""
    semaphore = forksafe.Semaphore(1, at_fork="restore")
    semaphore.release(4)
    assert run_in_child(lambda: semaphore._value, fork=fork) == 5


def test_permit_returned_by_another_thread(fork):
    """Taken here, returned there: nobody holds it at the fork."""
    semaphore = forksafe.BoundedSemaphore(2)
    semaphore.acquire()
    semaphore.acquire()
    with threads(semaphore.release, 1):
        pass
    assert semaphore._value == 1
    assert run_in_child(lambda: semaphore._value, fork=fork) == 1
    semaphore.release()
    assert run_in_child(lambda: semaphore._value, fork=fork) == 2


def test_many_holders(busy):
    semaphore = forksafe.BoundedSemaphore(40)
    for _ in range(30):
        busy(semaphore.acquire, semaphore.release)
    semaphore.acquire()
    assert semaphore._value == 9
    assert run_in_child(lambda: semaphore._value) == 39


def test_waiters_of_parent(fork):
    """Waiters of the parent are not the child's."""
    semaphore = forksafe.Semaphore(0)
    with threads(semaphore.acquire, 3):
        time.sleep(0.05)

        def child():
            semaphore.release()
            return semaphore.acquire(timeout=2), semaphore.acquire(False)

        try:
            assert run_in_child(child, fork=fork) == (True, False)
        finally:
            semaphore.release(3)


@pytest.mark.parametrize("cls", [forksafe.Semaphore, forksafe.BoundedSemaphore])
def test_no_permit_is_lost_or_made(cls):
    """Sixteen threads, three permits, short switch interval: never more than three inside, and all come through."""
    semaphore = cls(3)
    inside = []
    most = 0
    done = []
    interval = sys.getswitchinterval()

    def work():
        nonlocal most
        for _ in range(1500):
            with semaphore:
                inside.append(1)
                most = max(most, len(inside))
                inside.pop()
        done.append(1)

    sys.setswitchinterval(1e-5)
    try:
        with threads(work, 16):
            pass
    finally:
        sys.setswitchinterval(interval)
    assert len(done) == 16
    assert most <= 3
    assert semaphore._value == 3


def test_release_of_several_wakes_several():
    semaphore = forksafe.Semaphore(0)
    got = []
    with threads(lambda: got.append(semaphore.acquire(timeout=10)), 5):
        time.sleep(0.1)
        semaphore.release(5)
    assert got == [True] * 5


def test_timeouts():
    semaphore = forksafe.Semaphore(0)
    for timeout in (0, 0.05, -1):
        start = time.monotonic()
        assert not semaphore.acquire(timeout=timeout)
        assert max(timeout, 0) <= time.monotonic() - start < max(timeout, 0) + 5
    assert not semaphore.acquire(False)


def test_keyboard_interrupt_arrives():
    semaphore = forksafe.Semaphore(0)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        semaphore.acquire(timeout=20)
    semaphore.release()
    assert semaphore.acquire(False)


@pytest.mark.parametrize("make", [lambda n: forksafe.Semaphore(n), lambda n: forksafe.BoundedSemaphore(n)])
@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), ("x", TypeError), (1 << 80, OverflowError)])
def test_bad_values(make, value, error):
    with pytest.raises(error):
        make(value)


def test_bad_arguments():
    with pytest.raises(ValueError, match="at_fork"):
        forksafe.Semaphore(1, at_fork="forget")
    semaphore = forksafe.Semaphore(1)
    with pytest.raises(ValueError, match="can't specify timeout for non-blocking acquire"):
        semaphore.acquire(False, 1)
    with pytest.raises(ValueError, match="n must be one or more"):
        semaphore.release(0)
    with pytest.raises(ValueError, match="NaN"):
        semaphore.acquire(timeout=float("nan"))
    with pytest.raises(TypeError, match=r"cannot pickle '_thread\.lock' object"):
        pickle.dumps(semaphore)
    with pytest.raises(ValueError, match="Semaphore released too many times"):
        forksafe.BoundedSemaphore(1).release()
    assert semaphore._value == 1


def test_isinstance_of_threadings_types():
    assert isinstance(forksafe.Semaphore(), threading.Semaphore)
    assert isinstance(forksafe.BoundedSemaphore(), threading.BoundedSemaphore)
    assert isinstance(forksafe.BoundedSemaphore(), forksafe.Semaphore)


def test_release_fails():
    """A release that fails forgets no holder."""
    semaphore = forksafe.BoundedSemaphore(3)
    semaphore.acquire()
    for n in (2, 2**64):
        with pytest.raises(ValueError, match="released too many times"):
            semaphore.release(n)
    assert run_in_child(lambda: semaphore._value) == 2


def test_values_are_whole_numbers():
    for make in (forksafe.Semaphore, forksafe.BoundedSemaphore):
        with pytest.raises(TypeError):
            make(1.5)
    with pytest.raises(TypeError):
        forksafe.Semaphore().release(1.5)
