"""A ConnectionPool of real sessions (echo_server.py), and what a child must find of its parent's and of its own."""

from __future__ import annotations

import contextlib

import pytest

from forksafe import PoolTimeout

SIZE = 3


def uses_its_own(pool, parents):
    """In a child: the whole pool can be had, and its connections are new ones that work."""
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(pool.connection()) for _ in range(pool.max_size)]
        for conn in conns:
            assert conn.query("child's") == f"{conn.number} child's"
        numbers = {conn.number for conn in conns}
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
    assert len(numbers) == pool.max_size and not numbers & set(parents), "a child uses its parent's session"
    return numbers


def assert_dead(conn):
    """What a connection of the parent's is in a child: it fails at once, and reaches nobody."""
    for use in (lambda: conn.query("from the child"), conn.rollback):
        with pytest.raises(OSError, match=r"Broken pipe|closed the connection"):
            use()
