"""ThreadPoolExecutor where there is no fork: concurrent.futures' own. fork_grace is checked and has no effect."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor as _StandardExecutor
from typing import Any

from forksafe.arguments import seconds_or_none

__all__ = ["ThreadPoolExecutor"]


class ThreadPoolExecutor(_StandardExecutor):
    """concurrent.futures.ThreadPoolExecutor: there is no fork here, for which fork_grace would wait."""

    __module__ = "forksafe"

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        fork_grace: float | None = None,
    ) -> None:
        self.fork_grace = seconds_or_none(fork_grace, "ThreadPoolExecutor(fork_grace)")
        super().__init__(max_workers, thread_name_prefix, initializer, initargs)
