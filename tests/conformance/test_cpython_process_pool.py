"""CPython's own tests of ProcessPoolExecutor, run on forksafe's, with forksafe's context for the workers.

Each class below is composed as Lib/test/test_concurrent_futures composes its own. What those tests name
concurrent.futures.ProcessPoolExecutor, in this process and in those they start, is forksafe's here; where they look
inside one, they see the standard executor that it owns. What is excluded is listed with why. What runs is what the
interpreter brings along: where Python comes without these tests, all of it is skipped.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import sys
import unittest
from typing import Any
from unittest import mock

import pytest

from forksafe.executors import process as process_pool
from forksafe.processes.context import get_context

NAME = "test.test_concurrent_futures"
package: Any = pytest.importorskip(NAME, reason="this Python comes without CPython's tests of concurrent.futures")
pytestmark = pytest.mark.usefixtures("no_old_threads")


def part(name: str) -> Any:
    """From CPython 3.12 on it is a package of several modules."""
    return importlib.import_module(f"{NAME}.{name}") if hasattr(package, "__path__") else package


util, init, shutdown, deadlock = part("util"), part("test_init"), part("test_shutdown"), part("test_deadlock")
pool, wait, as_completed = part("test_process_pool"), part("test_wait"), part("test_as_completed")


class ProcessPoolExecutor(process_pool.ProcessPoolExecutor):
    """What the tests look at is the standard executor inside."""

    def __getattr__(self, name: str) -> Any:
        per_process = self.__dict__.get("_workers")
        workers = per_process.peek() if per_process is not None else None
        if workers is None:
            raise AttributeError(name)
        return getattr(workers.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_force_shutting_down":  # from CPython 3.14 on; set as if another thread were in kill_workers()
            self._workers.peek().inner._force_shutting_down = value
        super().__setattr__(name, value)


def assert_python_ok(*arguments: str, **environment: str) -> Any:
    """Programs, too, mean forksafe's."""
    from test.support.script_helper import assert_python_ok

    changed = []
    for each in arguments:
        text = each.replace("from concurrent.futures import Proc", "from forksafe.executors.process import Proc")
        text = text.replace(
            "from multiprocessing import get_context", "from forksafe.processes.context import get_context"
        )
        changed.append(text.replace("get_context(context)", "get_context()"))
    assert any("from forksafe" in each for each in changed)
    return assert_python_ok(*changed, PYTHONPATH=":".join(sys.path), **environment)


class ForksafeMixin(util.ExecutorMixin):
    executor_type = ProcessPoolExecutor
    ctx = "forksafe"

    def setUp(self) -> None:
        for patch in (
            mock.patch.object(concurrent.futures, "ProcessPoolExecutor", ProcessPoolExecutor),
            mock.patch.object(shutdown, "assert_python_ok", assert_python_ok),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()

    def get_context(self) -> Any:
        return get_context()

    def create_event(self) -> Any:
        return self.manager.Event()  # as CPython's mixins for processes


class InitializerTest(ForksafeMixin, init.InitializerMixin, util.BaseTestCase):
    pass


class FailingInitializerTest(ForksafeMixin, init.FailingInitializerMixin, util.BaseTestCase):
    pass


class ShutdownTest(ForksafeMixin, shutdown.ProcessPoolShutdownTest, util.BaseTestCase):
    pass


class WaitTest(ForksafeMixin, wait.WaitTests, util.BaseTestCase):
    pass


class AsCompletedTest(ForksafeMixin, as_completed.AsCompletedTests, util.BaseTestCase):
    pass


class ExecutorTest(ForksafeMixin, pool.ProcessPoolExecutorTest, util.BaseTestCase):
    # forksafe's has no context before its first submit(), and may have a forkserver's then.
    test_max_tasks_per_child_defaults_to_spawn_context = None
    # They put a mock in place of what CPython's methods call, where forksafe's have the standard executor's called.
    test_kill_workers = test_terminate_workers = None
    test_gc_during_max_tasks_worker_exit_gh152967 = None  # the next one has it

    if hasattr(pool.ProcessPoolExecutorTest, "_run_stranded_worker_exit_test"):

        def test_shutdown_no_wait_max_tasks_gh119592(self) -> None:
            """But for this: what was submitted is done here, even if nobody has the executor any more."""
            self._run_stranded_worker_exit_test(shutdown=True, drop_reference=False)
            for shutdown in (True, False):
                with pytest.raises(AssertionError, match="BrokenProcessPool not raised"):
                    self._run_stranded_worker_exit_test(shutdown=shutdown, drop_reference=True)


class DeadlockTest(ForksafeMixin, deadlock.ExecutorDeadlockTest, util.BaseTestCase):
    pass


def test_it_is_forksafes_that_is_tested() -> None:
    for case in (InitializerTest, ShutdownTest, WaitTest, AsCompletedTest, ExecutorTest, DeadlockTest):
        assert unittest.TestLoader().getTestCaseNames(case)
        assert issubclass(case.executor_type, process_pool.ProcessPoolExecutor)
