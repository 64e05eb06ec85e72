"""Fixtures of the tests of BackgroundThread."""

from __future__ import annotations

import warnings

import pytest

import forksafe
from forksafe import BackgroundThread
from forksafe.atfork import quiesce
from forksafe.background import restart
from support.background import LIMIT, wait_until
from support.pools import others_sleep


@pytest.fixture
def make():
    """make(target, ...): a BackgroundThread, stopped at the end."""
    made = []

    def do(target, **options):
        made.append(BackgroundThread(target, **options))
        return made[-1]

    yield do
    for each in made:
        assert each.stop(LIMIT), each
    assert not restart.started
    assert not quiesce._pauses


@pytest.fixture
def hazards():
    """The ForkHazardWarnings of a test that expects some."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", forksafe.ForkHazardWarning)
        yield caught


@pytest.fixture
def no_hazards(hazards):
    yield
    assert not hazards, [str(each.message) for each in hazards]


@pytest.fixture
def calm_fork(fork):
    """Each way to fork, once no other thread is inside C's memory allocator: not all of these let it finish first."""

    def forks():
        wait_until(others_sleep)
        return fork()

    return forks
