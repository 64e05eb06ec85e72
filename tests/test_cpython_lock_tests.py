"""CPython's own tests of its synchronisation objects, run on forksafe's.

Each class below is composed as Lib/test/test_threading.py, test_thread.py, test_threadsignals.py and
test_threading_local.py compose theirs; pytest shows one result for each of CPython's methods. What is run is
whatever the running interpreter brings along: where Python comes without its `test` package, all of it is skipped.
"""

from __future__ import annotations

import doctest
import importlib
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

# Imported as modules, so that pytest collects no class of theirs.
lock_tests: Any = pytest.importorskip("test.lock_tests", reason="this Python comes without its test package")
test_threading_local: Any = pytest.importorskip("test.test_threading_local")

pytestmark = pytest.mark.timeout(120)

compiled_only = pytest.mark.skipif(
    importlib.import_module("forksafe_core").IMPL != "compiled", reason="the pure core's types are threading's own"
)

# "Class.method": why forksafe's types cannot pass it. None so far.
EXCLUDED: dict[str, str] = {}


class PythonLock(forksafe.Lock):
    """A subclass has a __dict__ and takes part in garbage collection."""


class PythonRLock(forksafe.RLock):
    pass


class PythonSemaphore(forksafe.Semaphore):
    pass


def repair() -> None:
    raise AssertionError("nothing forks here, so nothing is orphaned")


class LockTests(lock_tests.LockTests):
    locktype = forksafe.Lock


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

    def test_recursion_count(self) -> None:
        self.skipTest("CPython skips this too: Condition does not expose _recursion_count()")


class StandardConditionTests(lock_tests.ConditionTests):
    """threading's own Condition, around a forksafe RLock."""

    @staticmethod
    def condtype(lock: Any = None) -> threading.Condition:
        return threading.Condition(forksafe.RLock() if lock is None else lock)


class SemaphoreTests(lock_tests.SemaphoreTests):
    semtype = forksafe.Semaphore


class RestoringSemaphoreTests(lock_tests.SemaphoreTests):
    @staticmethod
    def semtype(value: int = 1) -> forksafe.Semaphore:
        return forksafe.Semaphore(value, at_fork="restore")


class SemaphoreSubclassTests(lock_tests.SemaphoreTests):
    semtype = PythonSemaphore

    test_repr = None  # it compares with the class's name


class BoundedSemaphoreTests(lock_tests.BoundedSemaphoreTests):
    semtype = forksafe.BoundedSemaphore


class BarrierTests(lock_tests.BarrierTests):
    barriertype = forksafe.Barrier


class LocalTests(unittest.TestCase, test_threading_local.BaseLocalTest):
    _local = forksafe.local

    def setUp(self) -> None:  # one of the tests makes its own
        patch = mock.patch.object(threading, "local", forksafe.local)
        patch.start()
        self.addCleanup(patch.stop)


def test_documentation_of_local() -> None:
    """The documentation of threading.local is a doctest; what it shows holds for forksafe.local."""
    import _threading_local

    with mock.patch.object(_threading_local, "local", forksafe.local):
        tests = doctest.DocTestFinder().find(_threading_local, extraglobs={"local": forksafe.local})
        examples = [test for test in tests if test.examples]
        assert examples
        for test in examples:
            doctest.DebugRunner().run(test)


if sys.platform != "win32":
    test_threadsignals: Any = pytest.importorskip("test.test_threadsignals")

    class SignalTests(test_threadsignals.ThreadSignals):
        """acquire() is interrupted by signals: a handler's exception arrives, else it goes on waiting."""

        allocate_lock = staticmethod(forksafe.Lock)
        RLock = staticmethod(forksafe.RLock)

        # CPython skips these where the platform's semaphores cannot be interrupted; forksafe's locks use none.
        test_lock_acquire_interruption = inspect.unwrap(
            test_threadsignals.ThreadSignals.test_lock_acquire_interruption
        )
        test_rlock_acquire_interruption = inspect.unwrap(
            test_threadsignals.ThreadSignals.test_rlock_acquire_interruption
        )

        def setUp(self) -> None:
            ours = {**vars(test_threadsignals.thread), "allocate_lock": self.allocate_lock, "RLock": self.RLock}
            replaced = {"thread": types.SimpleNamespace(**ours), "signalled_all": self.allocate_lock()}
            handlers = {"tripped": 0, "tripped_by": 0}
            board = {number: dict(handlers) for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM)}
            patch = mock.patch.multiple(test_threadsignals, create=True, signal_blackboard=board, **replaced)
            patch.start()
            self.addCleanup(patch.stop)
            handle = test_threadsignals.handle_signals
            self.addCleanup(test_threadsignals.registerSignals, *test_threadsignals.registerSignals(handle, handle, handle))

    class SignalSubclassTests(SignalTests):
        allocate_lock = PythonLock
        RLock = PythonRLock

    class SignalExtrasTests(SignalTests):
        @staticmethod
        def allocate_lock() -> forksafe.Lock:
            return forksafe.Lock(on_orphan=repair)

        @staticmethod
        def RLock() -> forksafe.RLock:
            return forksafe.RLock(on_orphan=repair)
