"""What a ConnectionPool takes and tells: its arguments, checked, and PoolStats.

Guarantees: a wrong argument is a TypeError or ValueError that names it and says what it may be, before anything
changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forksafe.arguments import check_callable

__all__ = ["PoolStats", "check_callables", "checked_sizes"]


@dataclass(frozen=True)
class PoolStats:
    """A pool's figures in this process; a child begins at zero. psycopg_pool has most of them under the same names."""

    pool_min: int  # min_size
    pool_max: int  # max_size
    pool_size: int  # connections there are: idle, handed out or being made
    pool_available: int  # of them idle
    requests_waiting: int  # callers that wait now
    requests_num: int  # connections asked for
    requests_queued: int = 0  # of these, not served at once
    requests_wait_ms: int = 0  # milliseconds they waited, in total
    requests_errors: int = 0  # not served: timed out, or connect() failed
    returns_bad: int = 0  # came back closed, or could not be reset
    connections_num: int = 0  # attempts to connect
    connections_ms: int = 0  # milliseconds they took, in total
    connections_errors: int = 0  # of them failed
    connections_lost: int = 0  # refused by check=


PoolStats.__module__ = "forksafe"


def check_callables(**given: Any) -> None:
    for what, function in given.items():
        check_callable(function, f"ConnectionPool({what}=...)")


def checked_sizes(min_size: int, max_size: int | None) -> tuple[int, int]:
    """Both sizes; a max_size of None is min_size."""
    if max_size is None:
        max_size = min_size
    for what, size in (("min_size", min_size), ("max_size", max_size)):
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{what} takes a number of connections, not {size!r}")
    if min_size < 0 or max_size < max(1, min_size):
        raise ValueError(
            f"a pool has room for 1 connection or more, and keeps from 0 to max_size: not min_size={min_size}, "
            f"max_size={max_size}"
        )
    return min_size, max_size
