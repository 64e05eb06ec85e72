"""Fixtures of the tests of ThreadPoolExecutor; those of ProcessPoolExecutor have an `executor` of their own."""

from __future__ import annotations

import pytest

import forksafe
from support.executors import Blocked


@pytest.fixture(params=[1, 3])
def executor(request):
    with forksafe.ThreadPoolExecutor(request.param) as executor:
        yield executor


@pytest.fixture
def blocked(executor):
    blocked = Blocked(executor)
    yield blocked
    blocked.end()
