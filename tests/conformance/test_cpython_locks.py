"""CPython's own tests of its synchronisation objects, run on forksafe's. No method of them is excluded.

Each class below is composed as Lib/test/test_threading.py, test_thread.py, test_threadsignals.py and
test_threading_local.py compose theirs; pytest shows one result for each of CPython's methods. What runs is what the
interpreter brings along: where Python comes without its `test` package, all of it is skipped.
"""

from __future__ import annotations

import doctest
import inspect
import signal
import sys
import threading
import types
import unittest
from typing import Any
from unittest import mock

import pytest

import forksafe
import forksafe_core

# Imported as modules, so that pytest collects no class of theirs.
lock_tests: Any = pytest.importorskip("test.lock_tests", reason="this Python comes without its test package")
test_threading_local: Any = pytest.importorskip("test.test_threading_local")

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("no_old_threads")]

# On platforms without fork the locks are threading's own, of which there are no subclasses.
COMPILED = forksafe_core.IMPL == "compiled"
compiled_only = unittest.skipUnless(COMPILED, "the locks here are threading's own")

if COMPILED:

    class PythonLock(forksafe.Lock):
        """A subclass has a __dict__ and takes part in garbage collection."""

    class PythonRLock(forksafe.RLock):
        pass

else:
    PythonLock, PythonRLock = forksafe.Lock, forksafe.RLock


class PythonSemaphore(forksafe.Semaphore):
    pass


PythonSemaphore.__qualname__ = PythonSemaphore.__name__ = "Semaphore"  # CPython's test looks for it in the repr


def repair() -> None:
    raise AssertionError("nothing forks here, so nothing is orphaned")


class LockTests(lock_tests.LockTests):
    locktype = forksafe.Lock


@compiled_only
class LockSubclassTests(lock_tests.LockTests):
    locktype = PythonLock


class LockWithRepairTests(lock_tests.LockTests):
    """Locks with extras always take the slow path."""

    @staticmethod
    def locktype() -> forksafe.Lock:
        return forksafe.Lock(on_orphan=repair)


class LockHeldAcrossForksTests(lock_tests.LockTests):
    @staticmethod
    def locktype() -> forksafe.Lock:
        return forksafe.Lock(hold=True)


class RLockTests(lock_tests.RLockTests):
    locktype = forksafe.RLock


@compiled_only
class RLockSubclassTests(lock_tests.RLockTests):
    locktype = PythonRLock


class RLockWithRepairTests(lock_tests.RLockTests):
    @staticmethod
    def locktype() -> forksafe.RLock:
        return forksafe.RLock(on_orphan=repair)


class RLockHeldAcrossForksTests(lock_tests.RLockTests):
    @staticmethod
    def locktype() -> forksafe.RLock:
        return forksafe.RLock(hold=True)


class EventTests(lock_tests.EventTests):
    eventtype = forksafe.Event


class ConditionTests(lock_tests.ConditionTests):
    condtype = forksafe.Condition


class ConditionAsRLockTests(lock_tests.RLockTests):
    """A Condition uses an RLock by default and exports its methods."""

    locktype = forksafe.Condition

    def test_constructor_noargs(self) -> None:
        self.skipTest("CPython skips this too: Condition allows positional arguments")

    def test_recursion_count(self) -> None:
        self.skipTest("CPython skips this too: Condition does not expose _recursion_count()")


class StandardConditionTests(lock_tests.ConditionTests):
    """threading's own Condition, around a forksafe RLock."""

    @staticmethod
    def condtype(lock: Any = None) -> threading.Condition:
        return threading.Condition(forksafe.RLock() if lock is None else lock)


class SemaphoreTests(lock_tests.SemaphoreTests):
    semtype = forksafe.Semaphore


class SemaphoreThatRestoresTests(lock_tests.SemaphoreTests):
    @staticmethod
    def semtype(value: int = 1) -> forksafe.Semaphore:
        return forksafe.Semaphore(value, at_fork="restore")


class SemaphoreSubclassTests(lock_tests.SemaphoreTests):
    semtype = PythonSemaphore


class BoundedSemaphoreTests(lock_tests.BoundedSemaphoreTests):
    semtype = forksafe.BoundedSemaphore


class BarrierTests(lock_tests.BarrierTests):
    barriertype = forksafe.Barrier


def test_nothing_is_left_out():
    """Each concrete class of CPython's lock_tests has a subclass here, and none of its methods was taken away."""
    theirs = [cls for cls in vars(lock_tests).values() if isinstance(cls, type) and issubclass(cls, unittest.TestCase)]
    concrete = [cls for cls in theirs if not any(issubclass(other, cls) and other is not cls for other in theirs)]
    ours = [cls for cls in globals().values() if isinstance(cls, type) and issubclass(cls, unittest.TestCase)]
    assert len(concrete) >= 7
    for cls in concrete:
        names = set(unittest.defaultTestLoader.getTestCaseNames(cls))
        subclasses = [each for each in ours if issubclass(each, cls)]
        assert subclasses, f"no subclass of lock_tests.{cls.__name__} here"
        for each in subclasses:
            assert names <= set(unittest.defaultTestLoader.getTestCaseNames(each)), each


class LocalTests(unittest.TestCase, test_threading_local.BaseLocalTest):
    _local = forksafe.local

    def setUp(self) -> None:  # one of the tests makes its own
        patch = mock.patch.object(threading, "local", forksafe.local)
        patch.start()
        self.addCleanup(patch.stop)


def test_documentation_of_local() -> None:
    """The documentation of threading.local is a doctest; what it shows holds for forksafe.local."""
    import _threading_local

    if ">>>" not in (_threading_local.__doc__ or ""):
        pytest.skip("this Python shows no examples there any more")
    with mock.patch.object(_threading_local, "local", forksafe.local):
        found = doctest.DocTestFinder().find(_threading_local, extraglobs={"local": forksafe.local})
        tests = [test for test in found if test.examples]
        assert tests
        for test in tests:
            doctest.DebugRunner().run(test)


if sys.platform != "win32":
    signals: Any = pytest.importorskip("test.test_threadsignals")

    class SignalTests(signals.ThreadSignals):
        """acquire() is interrupted by signals: a handler's exception arrives, else it goes on waiting."""

        allocate_lock = staticmethod(forksafe.Lock)
        RLock = staticmethod(forksafe.RLock)

        # CPython skips these where the platform's semaphores cannot be interrupted; forksafe's locks use none.
        test_lock_acquire_interruption = inspect.unwrap(signals.ThreadSignals.test_lock_acquire_interruption)
        test_rlock_acquire_interruption = inspect.unwrap(signals.ThreadSignals.test_rlock_acquire_interruption)

        def setUp(self) -> None:
            ours = {**vars(signals.thread), "allocate_lock": self.allocate_lock, "RLock": self.RLock}
            numbers = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)
            patch = mock.patch.multiple(
                signals,
                create=True,
                thread=types.SimpleNamespace(**ours),
                signalled_all=self.allocate_lock(),
                signal_blackboard={number: {"tripped": 0, "tripped_by": 0} for number in numbers},
            )
            patch.start()
            self.addCleanup(patch.stop)
            before = signals.registerSignals(*[signals.handle_signals] * 3)
            self.addCleanup(signals.registerSignals, *before)

    @compiled_only
    class SignalSubclassTests(SignalTests):
        allocate_lock = PythonLock
        RLock = PythonRLock

    class SignalAndRepairTests(SignalTests):
        @staticmethod
        def allocate_lock() -> forksafe.Lock:
            return forksafe.Lock(on_orphan=repair)

        @staticmethod
        def RLock() -> forksafe.RLock:
            return forksafe.RLock(on_orphan=repair)
