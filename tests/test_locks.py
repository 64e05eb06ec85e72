"""Lock and RLock: what a child finds, whichever way it was forked; and that threading's own do hang there."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import sys
import threading
import time
import weakref

import pytest
from conftest import threads

import forksafe
from forksafe.testing import ChildTimeout, run_in_child

TYPES = {"Lock": (forksafe.Lock, threading.Lock), "RLock": (forksafe.RLock, threading.RLock)}


@pytest.fixture(params=list(TYPES))
def kind(request):
    return request.param


@pytest.fixture
def lock(kind):
    return TYPES[kind][0]()


class TestInAChild:
    def test_held_by_another_thread_is_free(self, lock, busy, fork):
        busy(lock.acquire, lock.release)
        assert lock.locked()

        def child():
            free = not lock.locked()
            with lock:
                return free, lock.locked()

        assert run_in_child(child, fork=fork) == (True, True)

    def test_control_standard_lock_held_by_another_thread_hangs(self, kind, busy):
        lock = TYPES[kind][1]()
        busy(lock.acquire, lock.release)
        with pytest.raises(ChildTimeout) as info:
            run_in_child(lambda: lock.acquire() and None, 0.5, c_stacks=False)
        assert "test_locks.py" in info.value.stacks

    def test_held_by_the_thread_that_forked_is_still_held(self, lock, kind, fork):
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

    def test_with_block_of_the_thread_that_forked_ends_normally(self, lock, fork):
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

    def test_exactly_one_thread_takes_an_orphan_over(self, lock, busy, fork):
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

    def test_release_of_an_orphan_does_not_raise_once(self, lock, busy, fork):
        busy(lock.acquire, lock.release)

        def child():
            lock.release()
            try:
                lock.release()
            except RuntimeError as error:
                return str(error)

        assert "release un" in run_in_child(child, fork=fork)

    def test_waiters_of_the_parent_are_not_the_childs(self, lock, fork):
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

    def test_a_stranger_does_not_own_an_inherited_rlock(self, busy, fork):
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

    def test_at_fork_reinit_in_a_child_forgives_the_release_that_is_to_come(self):
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


class TestOnOrphan:
    def test_repairs_before_acquire_returns_and_once(self, kind, busy, fork):
        data = []
        lock = TYPES[kind][0](on_orphan=lambda: data.append(lock.locked()))
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
        lock = TYPES[kind][0](on_orphan=lambda: done.append(1))
        busy(lock.acquire, lock.release)

        def child():
            if how == "with":
                lock.__enter__()
            else:
                assert lock.acquire(*{"acquire": (), "try": (False,), "timeout": (True, 1)}[how])
            return done

        assert run_in_child(child) == [1]

    def test_error_reaches_the_acquirer_and_the_next_one_repairs_again(self, kind, busy, fork):
        calls = []

        def repair():
            calls.append(1)
            if len(calls) == 1:
                raise ZeroDivisionError

        lock = TYPES[kind][0](on_orphan=repair)
        busy(lock.acquire, lock.release)

        def child():
            with pytest.raises(ZeroDivisionError):
                lock.acquire()
            free = not lock.locked()
            with lock:
                return free, len(calls)

        assert run_in_child(child, fork=fork) == (True, 2)

    def test_not_run_for_the_thread_that_forked_nor_for_a_free_lock(self, kind, fork):
        calls = []
        lock, free = (TYPES[kind][0](on_orphan=lambda: calls.append(1)) for _ in range(2))

        def child():
            lock.release()
            with lock, free:
                return calls

        with lock:
            assert run_in_child(child, fork=fork) == []

    def test_orphan_that_is_released_first_is_still_repaired(self, kind, busy):
        calls = []
        lock = TYPES[kind][0](on_orphan=lambda: calls.append(1))
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
            lock = TYPES[kind][0](hold=hold)
            stop.clear()
            with threads(lambda lock=lock: write(lock), 1):
                torn[hold] = sum(run_in_child(lambda: (lock.acquire(), pair[0] != pair[1])[1]) for _ in range(40))
                stop.set()
        assert torn[True] == 0
        assert torn[False] > 0

    def test_is_free_on_both_sides_afterwards(self, kind):
        lock = TYPES[kind][0](hold=True)
        assert run_in_child(lambda: lock.acquire(False))
        assert lock.acquire(False)

    def test_kept_if_the_thread_that_forks_has_it(self, kind):
        lock = TYPES[kind][0](hold=True)
        with lock:
            assert run_in_child(lock.locked)
            assert lock.locked()

    def test_gives_up_after_hold_timeout_with_a_warning_that_names_lock_and_holder(self, kind, busy):
        lock = TYPES[kind][0](hold=True, hold_timeout=0.2)
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
            free = [run_in_child(lambda: all(lock.acquire(False) for lock in (a, b, c))) for _ in range(100)]
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


class TestAsThreadings:
    def test_mutual_exclusion_and_progress(self, lock):
        total = 0

        def work():
            nonlocal total
            for _ in range(20000):
                with lock:
                    total += 1

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            with threads(work, 8):
                pass
        finally:
            sys.setswitchinterval(interval)
        assert total == 160000

    def test_timeouts(self, lock, busy):
        busy(lock.acquire, lock.release)
        for timeout in (0, 0.001, 0.05, 0.2):
            start = time.monotonic()
            assert not lock.acquire(timeout=timeout)
            assert timeout <= time.monotonic() - start < timeout + 0.5
        assert not lock.acquire(False)

    def test_timeout_max(self, lock, kind):
        assert lock.acquire(timeout=threading.TIMEOUT_MAX)
        if kind == "Lock":
            threading.Timer(0.1, lock.release).start()
            assert lock.acquire(timeout=threading.TIMEOUT_MAX)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((False, 1), ValueError, "can't specify a timeout for a non-blocking call"),
            ((True, -2), ValueError, "timeout value must be a non-negative number"),
            ((True, threading.TIMEOUT_MAX * 2), OverflowError, "timeout value is too large"),
            ((True, float("nan")), ValueError, "NaN"),
            ((True, "1"), TypeError, "must be real number, not str"),
            ((True, None), TypeError, "must be real number, not NoneType"),
        ],
    )
    def test_bad_arguments(self, lock, arguments, error, message):
        with pytest.raises(error, match=message):
            lock.acquire(*arguments)
        assert not lock.locked()

    def test_release_of_a_free_lock(self, lock, kind):
        with pytest.raises(
            RuntimeError, match="release unlocked lock" if kind == "Lock" else "cannot release un-acquired lock"
        ):
            lock.release()

    @pytest.mark.parametrize(
        ("keywords", "error", "message"),
        [
            ({"on_orphan": 3}, TypeError, r"\(on_orphan=\.\.\.\) takes a callable without arguments, not 'int'"),
            ({"hold_timeout": -1}, ValueError, r"\(hold_timeout=\.\.\.\) takes seconds from 0"),
            ({"hold_timeout": float("nan")}, ValueError, "hold_timeout"),
            ({"hold": True, "hold_timeout": "x"}, TypeError, "real number"),
            ({"holds": True}, TypeError, "holds"),
        ],
    )
    def test_bad_construction(self, kind, keywords, error, message):
        with pytest.raises(error, match=message):
            TYPES[kind][0](**keywords)

    def test_no_positional_arguments(self, kind):
        with pytest.raises(TypeError):
            TYPES[kind][0](True)

    def test_not_picklable_with_threadings_message(self, lock, kind):
        standard = TYPES[kind][1]()
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError) as expected:
                attempt(standard)
            with pytest.raises(TypeError) as got:
                attempt(lock)
            assert str(got.value) == str(expected.value)

    def test_weakly_referable(self, kind):
        lock = TYPES[kind][0]()
        gone = weakref.ref(lock)
        del lock
        assert gone() is None

    def test_isinstance_of_threadings_types(self, lock, kind):
        assert isinstance(lock, type(TYPES[kind][1]()))
        assert isinstance(lock, TYPES[kind][0])
        assert type(lock) is TYPES[kind][0]

    def test_size(self):
        assert sys.getsizeof(forksafe.Lock()) <= 32
        assert not gc.is_tracked(forksafe.Lock())

    def test_subclass(self, kind):
        class Named(TYPES[kind][0]):
            def __init__(self, name):
                super().__init__()
                self.name = name

        lock = Named("a")
        assert isinstance(lock, Named)
        with lock:
            assert lock.locked()
            assert lock.name == "a"

    def test_context_methods_look_like_methods(self, lock, kind):
        cls = TYPES[kind][0]
        assert cls.__enter__(lock) is True
        assert cls.__exit__(lock, None, None, None) is None
        enter = lock.__enter__
        assert enter.__self__ is lock
        assert enter.__name__ == "__enter__"
        assert enter == lock.__enter__
        assert hash(enter) == hash(lock.__enter__)
        assert enter != lock.__exit__
        with pytest.raises(TypeError):
            lock.__enter__(1)
        with pytest.raises(TypeError):
            cls.__enter__(object())
        with pytest.raises(TypeError):
            cls.__enter__()
        assert not lock.locked()

    def test_release_by_another_thread(self):
        lock = forksafe.Lock()
        lock.acquire()
        with threads(lock.release, 1):
            pass
        assert not lock.locked()
        rlock = forksafe.RLock()
        rlock.acquire()
        errors = []

        def release():
            try:
                rlock.release()
            except RuntimeError as error:
                errors.append(str(error))

        with threads(release, 1):
            pass
        assert errors == ["cannot release un-acquired lock"]


class TestSignals:
    def test_keyboard_interrupt_arrives(self, lock, busy):
        busy(lock.acquire, lock.release)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            lock.acquire(timeout=20)
        assert time.monotonic() - start < 10

    def test_a_handler_that_returns_does_not_end_the_wait(self, lock, busy):
        holder = busy(lock.acquire, lock.release)
        handled = []
        old = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
        try:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            start = time.monotonic()
            assert not lock.acquire(timeout=0.5)
            assert 0.5 <= time.monotonic() - start < 5
            assert handled == [1]
            threading.Timer(0.2, holder._go.set).start()
            assert lock.acquire(timeout=10)
        finally:
            signal.signal(signal.SIGUSR1, old)

    def test_a_handler_that_forks_while_it_waits(self, lock, busy):
        """In the child the lock's holder vanished, so the wait there succeeds; in the parent it goes on."""
        busy(lock.acquire, lock.release)

        def child():
            """A child of its own, so that the inner parent's wait can be watched."""
            inside = threading.Event()
            held = forksafe.Lock()
            threading.Thread(target=lambda: (held.acquire(), inside.set(), time.sleep(60)), daemon=True).start()
            inside.wait(5)
            pids = []
            signal.signal(signal.SIGUSR1, lambda *_: pids.append(os.fork()))
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            got = held.acquire(timeout=1.5)
            if pids == [0]:
                os._exit(42 if got else 1)
            _, status = os.waitpid(pids[0], 0)
            return got, os.waitstatus_to_exitcode(status)

        assert run_in_child(child, 20) == (False, 42)
