"""Lock and RLock: what a child finds, whichever way it was forked; and that threading's own do hang there."""

from __future__ import annotations

import threading
import time

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.hangs import assert_child_hangs
from support.threads import LOCKS, threads


class TestInAChild:
    def test_held_by_another_thread_is_free(self, lock, busy, fork):
        busy(lock.acquire, lock.release)
        assert lock.locked()

        def child():
            free = not lock.locked()
            with lock:
                return free, lock.locked()

        assert run_in_child(child, fork=fork) == (True, True)

    def test_standard_lock_held(self, kind, busy):
        """The control: held by another thread it hangs in the child."""
        lock = LOCKS[kind][1]()
        busy(lock.acquire, lock.release)
        assert_child_hangs(lambda: lock.acquire() and None, "test_lock.py")

    def test_held_by_survivor(self, lock, kind, fork):
        """What the thread that forked holds is still held."""

        def child():
            other = []
            thread = threading.Thread(target=lambda: other.append(lock.acquire(False)))
            thread.start()
            thread.join(5)
            held = lock.locked()
            lock.release()
            thread = threading.Thread(target=lambda: other.append(lock.acquire(False)))
            thread.start()
            thread.join(5)
            return held, other

        with lock:
            assert run_in_child(child, fork=fork) == (True, [False, True])

    def test_with_block_of_survivor(self, lock, fork):
        """It ends normally."""

        def child():
            with lock:
                return run_in_child(lambda: lock.release() or lock.locked(), fork=fork)

        assert run_in_child(child) is False

    def test_free_is_free(self, lock, fork):
        assert run_in_child(lambda: lock.acquire(False), fork=fork)

    def test_grandchild(self, lock, busy, fork):
        """Orphaned by the first fork and never touched in the child; and held by the child's own other thread."""
        second = forksafe.Lock()
        busy(lock.acquire, lock.release)

        def child():
            inside, go = threading.Event(), threading.Event()

            def hold():
                with second:
                    inside.set()
                    go.wait(20)

            thread = threading.Thread(target=hold)
            thread.start()
            assert inside.wait(5)
            result = run_in_child(lambda: (lock.acquire(timeout=1), second.acquire(timeout=1)), fork=fork)
            go.set()
            thread.join(5)
            return result, lock.acquire(timeout=1), second.acquire(timeout=1)

        assert run_in_child(child, fork=fork, timeout=20) == ((True, True), True, True)

    def test_worker_thread_forks(self, lock, busy, fork):
        busy(lock.acquire, lock.release)
        result = []
        thread = threading.Thread(
            target=lambda: result.append(run_in_child(lambda: lock.acquire(timeout=2), fork=fork))
        )
        thread.start()
        thread.join(20)
        assert result == [True]

    def test_orphan_taken_over_once(self, lock, busy, fork):
        """Exactly one thread takes an orphan over."""
        busy(lock.acquire, lock.release)

        def child():
            forksafe.generation()  # where no handler ran, the thread that forked has to show itself
            start = threading.Barrier(8)
            got = []

            def take():
                start.wait(5)
                got.append(lock.acquire(False))

            with threads(take, 8):
                pass
            return sum(got)

        assert run_in_child(child, fork=fork) == 1

    def test_orphan_released(self, lock, busy, fork):
        """The first release of an orphan does not raise."""
        busy(lock.acquire, lock.release)

        def child():
            lock.release()
            try:
                lock.release()
            except RuntimeError as error:
                return str(error)

        assert "release un" in run_in_child(child, fork=fork)

    def test_waiters_of_parent(self, lock, fork):
        """Threads were parked on the lock at the fork; in the child it works, also under contention."""
        lock.acquire()
        with threads(lambda: lock.acquire() and lock.release(), 3):
            time.sleep(0.05)

            def child():
                lock.release()
                total = []

                def work():
                    for _ in range(200):
                        with lock:
                            total.append(1)

                with threads(work, 4):
                    pass
                return len(total)

            try:
                assert run_in_child(child, fork=fork, timeout=20) == 800
            finally:
                lock.release()

    def test_rlock_count_survives(self, fork):
        lock = forksafe.RLock()
        with lock, lock:
            count = run_in_child(
                lambda: (lock._recursion_count(), lock.release(), lock.release(), lock.locked()), fork=fork
            )
        assert count == (2, None, None, False)

    def test_inherited_rlock_of_stranger(self, busy, fork):
        """A new thread in the child gets the ident of one that vanished: threading's RLock lets it in, by mistake."""
        lock = forksafe.RLock()
        mine = forksafe.RLock()
        busy(lock.acquire, lock.release)

        def child():
            seen = []
            with threads(lambda: seen.append((lock._is_owned(), mine.acquire(False))), 4):
                pass
            return seen

        with mine:
            assert run_in_child(child, fork=fork) == [(False, False)] * 4

    def test_at_fork_reinit_then_release(self):
        """What logging does to its handlers' locks, when a handler forks."""
        lock = forksafe.RLock()

        def child():
            lock._at_fork_reinit()
            free = not lock.locked()
            with lock:
                pass
            lock.release()
            lock.release()
            with pytest.raises(RuntimeError):
                lock.release()
            return free

        with lock, lock:
            assert run_in_child(child)
        lock.acquire()
        lock._at_fork_reinit()
        with pytest.raises(RuntimeError):
            lock.release()

    def test_at_fork_reinit_frees(self, lock):
        lock.acquire()
        lock._at_fork_reinit()
        assert not lock.locked()
        with lock:
            pass
