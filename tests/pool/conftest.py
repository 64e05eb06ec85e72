"""Fixtures of the tests of ConnectionPool, in one process and of real sessions (support/echo_server.py)."""

from __future__ import annotations

import math

import pytest

from forksafe import ConnectionPool
from support.echo_pool import SIZE
from support.echo_server import Server
from support.pools import Made, others_sleep, wait_until


@pytest.fixture
def made():
    return Made()


@pytest.fixture
def new_pool(made):
    pools = []

    def new(connect=made, **options):
        pools.append(ConnectionPool(connect, **{"fds": (), **options}))
        return pools[-1]

    yield new
    for pool in pools:
        pool.close()


@pytest.fixture
def calm_fork(fork):
    """Each way to fork, once no other thread is inside C's memory allocator: not all of these let it finish first."""

    def forks():
        wait_until(others_sleep)
        return fork()

    return forks


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def pool(server):
    """Without a limit to idleness, so without a watcher."""
    with ConnectionPool(server.connect, max_size=SIZE, timeout=60, max_idle=math.inf) as pool:
        yield pool
