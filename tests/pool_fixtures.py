"""Fixtures of the tests of ConnectionPool, in one process and of real sessions (line_server.py)."""

from __future__ import annotations

import pytest
from line_pool import SIZE
from line_server import Server
from pool_helpers import Made

from forksafe import ConnectionPool


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


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def pool(server):
    with ConnectionPool(server.connect, max_size=SIZE, timeout=60) as pool:
        yield pool
