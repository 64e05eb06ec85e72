"""CPython's own tests of ThreadPoolExecutor, run on forksafe's. No method of them is excluded.

Each class below is composed as Lib/test/test_concurrent_futures composes its own. What those tests name
concurrent.futures.ThreadPoolExecutor, in this process and in those they start, is forksafe's here. What runs is what
the interpreter brings along: where Python comes without these tests, all of it is skipped.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import re
import sys
import unittest
from typing import Any
from unittest import mock

import pytest

import forksafe

NAME = "test.test_concurrent_futures"
package: Any = pytest.importorskip(NAME, reason="this Python comes without CPython's tests of concurrent.futures")
pytestmark = pytest.mark.usefixtures("no_old_threads")


def part(name: str) -> Any:
    """From CPython 3.12 on it is a package of several modules."""
    return importlib.import_module(f"{NAME}.{name}") if hasattr(package, "__path__") else package


util, executor, init, shutdown = part("util"), part("executor"), part("test_init"), part("test_shutdown")
thread_pool, wait, as_completed = part("test_thread_pool"), part("test_wait"), part("test_as_completed")


def assert_python_ok(*arguments: str, **environment: str) -> Any:
    """Programs, too, mean forksafe's."""
    from test.support.script_helper import assert_python_ok

    changed = [re.sub(r"from concurrent.futures import ThreadPool", "from forksafe import ThreadPool", each)
               for each in arguments]  # fmt: skip
    assert any("from forksafe" in each for each in changed)
    return assert_python_ok(*changed, PYTHONPATH=":".join(sys.path), **environment)


class ForksafeMixin(util.ExecutorMixin):
    executor_type = forksafe.ThreadPoolExecutor

    def setUp(self) -> None:
        for patch in (
            mock.patch.object(concurrent.futures, "ThreadPoolExecutor", forksafe.ThreadPoolExecutor),
            mock.patch.object(shutdown, "assert_python_ok", assert_python_ok),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()


class InitializerTest(ForksafeMixin, init.InitializerMixin, util.BaseTestCase):
    pass


class FailingInitializerTest(ForksafeMixin, init.FailingInitializerMixin, util.BaseTestCase):
    pass


class ShutdownTest(ForksafeMixin, shutdown.ThreadPoolShutdownTest):
    pass


class WaitTest(ForksafeMixin, getattr(wait, "ThreadPoolWaitTests", wait.WaitTests), util.BaseTestCase):
    pass


class AsCompletedTest(ForksafeMixin, as_completed.AsCompletedTests, util.BaseTestCase):
    pass


class ExecutorTest(ForksafeMixin, thread_pool.ThreadPoolExecutorTest):
    pass


def test_it_is_forksafes_that_is_tested() -> None:
    for case in (InitializerTest, FailingInitializerTest, ShutdownTest, WaitTest, AsCompletedTest, ExecutorTest):
        names = unittest.TestLoader().getTestCaseNames(case)
        assert names
        assert case.executor_type is forksafe.ThreadPoolExecutor
