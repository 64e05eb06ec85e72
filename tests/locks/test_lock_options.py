"""on_orphan and hold."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.threads import LOCKS, threads


class TestOnOrphan:
    def test_repair_runs_once(self, kind, busy, fork):
        """It runs before acquire returns."""
        data = []
        lock = LOCKS[kind][0](on_orphan=lambda: data.append(lock.locked()))
        busy(lock.acquire, lock.release)

        def child():
            with lock:
                first = list(data)
            with lock:
                return first, list(data)

        assert run_in_child(child, fork=fork) == ([True], [True])
        assert data == []

    @pytest.mark.parametrize("how", ["with", "acquire", "try", "timeout"])
    def test_each_way_to_acquire(self, kind, busy, how):
        done = []
        lock = LOCKS[kind][0](on_orphan=lambda: done.append(1))
        busy(lock.acquire, lock.release)

        def child():
            if how == "with":
                lock.__enter__()
            else:
                assert lock.acquire(*{"acquire": (), "try": (False,), "timeout": (True, 1)}[how])
            return done

        assert run_in_child(child) == [1]

    def test_repair_raises(self, kind, busy, fork):
        """The error reaches the acquirer, and the next one repairs again."""
        calls = []

        def repair():
            calls.append(1)
            if len(calls) == 1:
                raise ZeroDivisionError

        lock = LOCKS[kind][0](on_orphan=repair)
        busy(lock.acquire, lock.release)

        def child():
            with pytest.raises(ZeroDivisionError):
                lock.acquire()
            free = not lock.locked()
            with lock:
                return free, len(calls)

        assert run_in_child(child, fork=fork) == (True, 2)

    def test_repair_not_needed(self, kind, fork):
        """It is not run for the thread that forked, nor for a free lock."""
        calls = []
        lock, free = (LOCKS[kind][0](on_orphan=lambda: calls.append(1)) for _ in range(2))

        def child():
            lock.release()
            with lock, free:
                return calls

        with lock:
            assert run_in_child(child, fork=fork) == []

    def test_orphan_released_then_repaired(self, kind, busy):
        """An orphan that is released first is still repaired."""
        calls = []
        lock = LOCKS[kind][0](on_orphan=lambda: calls.append(1))
        busy(lock.acquire, lock.release)

        def child():
            lock.release()
            with lock:
                return calls

        assert run_in_child(child) == [1]

    def test_fork_during_the_repair(self, busy):
        """The thread that repairs forks: it goes on in the grandchild. Another forks: the grandchild repairs anew."""
        log = []

        def repair():
            log.append("begin")
            log.append(run_in_child(lambda: lock.locked()))
            log.append("end")

        lock = forksafe.Lock(on_orphan=repair)
        busy(lock.acquire, lock.release)

        def child():
            with lock:
                return log

        assert run_in_child(child) == ["begin", True, "end"]

    def test_rlock_may_be_taken_in_the_repair(self, busy):
        def repair():
            with lock:
                seen.append(lock._recursion_count())

        seen = []
        lock = forksafe.RLock(on_orphan=repair)
        busy(lock.acquire, lock.release)

        def child():
            with lock:
                count = lock._recursion_count()
            return seen, count, lock.locked()

        assert run_in_child(child) == ([2], 1, False)

    def test_bound_method_does_not_keep_its_object(self):
        class Cache:
            def __init__(self):
                self.lock = forksafe.Lock(on_orphan=self.repair)

            def repair(self):
                pass

        cache = Cache()
        gone = weakref.ref(cache)
        del cache
        assert gone() is None

    def test_what_it_keeps_goes_with_the_lock(self):
        class Repair:
            def __call__(self):
                pass

        repair = Repair()
        gone = weakref.ref(repair)
        lock = forksafe.Lock(on_orphan=repair)
        del repair
        assert gone() is not None
        del lock
        assert gone() is None


class TestHold:
    def test_the_child_never_sees_torn_data(self, kind):
        """Without hold it does, which is the control."""
        pair = [0, 0]
        stop = threading.Event()

        def write(lock):
            while not stop.is_set():
                with lock:
                    pair[0] += 1
                    time.sleep(0.0005)
                    pair[1] += 1

        torn = {}
        for hold in (False, True):
            pair[:] = [0, 0]
            lock = LOCKS[kind][0](hold=hold)
            stop.clear()
            with threads(lambda lock=lock: write(lock), 1):
                torn[hold] = sum(run_in_child(lambda: (lock.acquire(), pair[0] != pair[1])[1]) for _ in range(12))
                stop.set()
        assert torn[True] == 0
        assert torn[False] > 0

    def test_is_free_on_both_sides_afterwards(self, kind):
        lock = LOCKS[kind][0](hold=True)
        assert run_in_child(lambda: lock.acquire(False))
        assert lock.acquire(False)

    def test_kept_if_the_thread_that_forks_has_it(self, kind):
        lock = LOCKS[kind][0](hold=True)
        with lock:
            assert run_in_child(lock.locked)
            assert lock.locked()

    def test_hold_timeout(self, kind, busy):
        """The fork goes on, with a warning that names lock and holder."""
        lock = LOCKS[kind][0](hold=True, hold_timeout=0.2)
        busy(lock.acquire, lock.release).thread.name = "slow-thread"
        start = time.monotonic()
        with pytest.warns(
            forksafe.ForkHazardWarning, match=rf"forksafe\.{kind} object.*slow-thread.*hold_timeout=0\.2"
        ):
            assert run_in_child(lambda: lock.acquire(False))
        assert time.monotonic() - start < 5
        assert lock.locked()

    def test_no_order_of_locks_deadlocks(self):
        """Threads nest the locks in both orders while others fork, which takes all of them."""
        a, b, c = (forksafe.Lock(hold=True) for _ in range(3))
        stop = threading.Event()
        orders = iter([(a, b), (b, c), (c, a), (a, c)])
        take = threading.Lock()

        def work():
            with take:
                first, second = next(orders)
            while not stop.is_set():
                if first.acquire(timeout=1):
                    if second.acquire(timeout=0.001):
                        second.release()
                    first.release()

        with threads(work, 4):
            start = time.monotonic()
            free = [run_in_child(lambda: all(lock.acquire(False) for lock in (a, b, c))) for _ in range(25)]
            stop.set()
        assert all(free)
        assert time.monotonic() - start < 60

    def test_forks_of_several_threads(self):
        locks = [forksafe.Lock(hold=True) for _ in range(5)]
        results = []

        def work():
            for _ in range(10):
                results.append(run_in_child(lambda: all(lock.acquire(False) for lock in locks), 20))

        with threads(work, 4):
            pass
        assert results == [True] * 40

    def test_dead_locks_are_forgotten(self):
        from forksafe_core import held_across_forks

        gc.collect()
        before = len(held_across_forks())
        lock = forksafe.Lock(hold=True)
        assert len(held_across_forks()) == before + 1
        del lock
        assert len(held_across_forks()) == before
