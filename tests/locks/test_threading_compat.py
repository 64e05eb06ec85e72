"""Lock and RLock as drop-ins, beside CPython's own tests: arguments, errors, types, signals."""

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

import forksafe
from forksafe.testing import run_in_child
from support.forks import FREE_THREADED
from support.threads import LOCKS, threads


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
            assert timeout <= time.monotonic() - start < timeout + 5
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
            LOCKS[kind][0](**keywords)

    def test_no_positional_arguments(self, kind):
        with pytest.raises(TypeError):
            LOCKS[kind][0](True)

    def test_not_picklable_with_threadings_message(self, lock, kind):
        standard = LOCKS[kind][1]()
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError) as expected:
                attempt(standard)
            with pytest.raises(TypeError) as got:
                attempt(lock)
            assert str(got.value) == str(expected.value)

    def test_weakly_referable(self, kind):
        lock = LOCKS[kind][0]()
        gone = weakref.ref(lock)
        del lock
        assert gone() is None

    def test_isinstance_of_threadings_types(self, lock, kind):
        assert isinstance(lock, type(LOCKS[kind][1]()))
        assert isinstance(lock, LOCKS[kind][0])
        assert type(lock) is LOCKS[kind][0]

    def test_size(self):
        assert sys.getsizeof(forksafe.Lock()) <= (48 if FREE_THREADED else 32)
        assert not gc.is_tracked(forksafe.Lock())

    def test_subclass(self, kind):
        class Named(LOCKS[kind][0]):
            def __init__(self, name):
                super().__init__()
                self.name = name

        lock = Named("a")
        assert isinstance(lock, Named)
        with lock:
            assert lock.locked()
            assert lock.name == "a"

    def test_context_methods_look_like_methods(self, lock, kind):
        cls = LOCKS[kind][0]
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

    def test_handler_returns_wait_goes_on(self, lock, busy):
        """A handler that returns does not end the wait."""
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
