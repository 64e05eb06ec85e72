"""quiesce(): threads of forksafe brought to rest, so that a fork finds nobody in the middle of anything.

Guarantees: all are told first and then waited for, so that one time limit holds for all of them together; who comes to
be meanwhile rests, too. Who did not come to rest in time is named, with the line it is at, and the fork is not stopped
for it. The thread that forks or quiesces is waited for by nobody, also when it is one of those. Everybody goes on
afterwards, in parent and child, whatever ended the waiting. Other threads' forks wait until the block is left.

Why that survives fork: nobody counts who asked for rest. A _Rest names the thread that asks; where that has vanished,
it asks for nothing. A program in which nobody asked for it pays nothing: the hook is registered by the first who does.

Not covered: threads that are not forksafe's. A fork made by C waits for nobody; quiesce() around it does.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from forksafe.atfork.hooks import (
    lock_across_forks,
    lock_gate,
    register_at_fork,
    unlock_across_forks,
    unlock_gate,
    warn_of_hazard,
)
from forksafe.locks import Lock
from forksafe_core import atfork

__all__ = ["Busy", "Resting", "add", "is_at_rest", "keepers", "quiesce", "seconds"]


@dataclass(frozen=True)
class Busy:
    """A thread that did not come to rest in time. where: the file, line and function it was in."""

    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.name} in {self.where}" if self.where else self.name


class Resting(Protocol):
    """Who can be brought to rest.

    fork_grace: seconds that every fork waits for it; None for those that only quiesce() brings to rest.
    """

    @property
    def fork_grace(self) -> float | None: ...

    def heed_rests(self) -> None:
        """Let nothing begin while is_at_rest(self), else go on. Called whenever that may have changed.

        Whoever implements it asks and acts under one lock of its own, so that the last one who asks is right.
        """

    def wait_for_rest(self, seconds: float) -> list[threading.Thread]:
        """The threads, other than the calling one, that are still busy after that time."""


class _Rest:
    """A fork, or a block of quiesce(), that members rest for. limit: seconds; None, a fork: to each its fork_grace."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.token = atfork.token()
        self.generation = atfork.generation()
        self.in_vain: list[Any] = []  # members that it has waited for

    def is_for(self, member: Resting) -> bool:
        return self.limit is not None or member.fork_grace is not None

    def is_over(self) -> bool:
        """In a child that of a thread that vanished; and a block, for there its purpose is fulfilled."""
        return atfork.gone(self.token) or (self.limit is not None and self.generation != atfork.generation())

    def wait_for(self, member: Resting, start: float) -> list[Busy]:
        # A fork within a block of quiesce() does not wait once more for whom the block has waited for in vain.
        waited = any(member in other.in_vain for other in list(_rests) if other.token == self.token)
        limit = 0 if waited else member.fork_grace if self.limit is None else self.limit
        threads = member.wait_for_rest(max(start + (limit or 0) - time.monotonic(), 0.0))
        if threads:
            self.in_vain.append(member)
        return [Busy(thread.name, _place_of(thread)) for thread in threads]


_changing = Lock()
_all: weakref.WeakSet[Any] = weakref.WeakSet()
_watching = False
_rests: list[_Rest] = []  # under way, a thread's innermost last


def add(member: Resting) -> None:
    """Remember who can be brought to rest; weakly."""
    global _watching
    with _changing:
        _all.add(member)
        watch = member.fork_grace is not None and not _watching
        _watching = _watching or watch
    if watch:
        register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after)
    if _rests:
        member.heed_rests()


def is_at_rest(member: Resting, but: int = 0) -> bool:
    """Whether it is to let nothing begin, for a fork or block of some thread but the one with that token."""
    return any(token != but for token in keepers(member))


def keepers(member: Resting) -> list[int]:
    """The tokens of the threads that keep it at rest."""
    return [rest.token for rest in list(_rests) if rest.is_for(member) and not rest.is_over()]


@contextmanager
def quiesce(timeout: float = 5.0, *, strict: bool = False) -> Iterator[list[Busy]]:
    """For those who fork by hand, in C for one: `with quiesce(): fork()`. What forks of Python do on their own.

    All executors of forksafe begin nothing more and what they run is waited for, its background threads come to their
    checkpoints, and all locks made with hold=True are taken, until the block is left: by the parent, and by the child,
    which holds those locks as well, and whose executors can be used at once. Forks of other threads wait until it is
    left, at most ten seconds.

    It gives the list of those that were still busy after `timeout` seconds, with a ForkHazardWarning; strict:
    TimeoutError, and everything goes on. Blocks may be nested. TypeError or ValueError for a timeout that is no number
    of seconds.
    """
    rest = _Rest(seconds(timeout, "quiesce(timeout)"))
    gated = lock_gate()
    try:
        busy = _bring_to_rest(rest)
        if busy:
            message = f"{_said(busy)} did not come to rest within {timeout:g} seconds"
            if strict:
                raise TimeoutError(f"quiesce(): {message}")
            warn_of_hazard(f"quiesce(): {message}: a child would find in the middle what that is busy with", quiesce, 5)
        held = lock_across_forks()
        try:
            yield busy
        finally:
            unlock_across_forks(held)
    finally:
        _end(rest)
        unlock_gate(gated)


def seconds(value: object, what: str) -> float:
    """A number of seconds as a float. TypeError or ValueError if it is none, saying what it is for."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{what} takes a number of seconds, not {value!r}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{what} takes a number of seconds from 0 up, not {value!r}")
    return float(value)


def _bring_to_rest(rest: _Rest) -> list[Busy]:
    start = time.monotonic()
    _rests.append(rest)
    members = _members_of(rest)
    for member in members:
        member.heed_rests()
    busy = []
    for member in members:
        busy += rest.wait_for(member, start)
    return busy


def _end(rest: _Rest) -> None:
    _rests[:] = [each for each in _rests if each is not rest and not each.is_over()]
    for member in _members_of(rest):
        member.heed_rests()


def _members_of(rest: _Rest) -> list[Any]:
    with _changing:
        return [member for member in _all if rest.is_for(member)]


def _place_of(thread: threading.Thread) -> str:
    """Where a thread is: the innermost frame that is not the interpreter's own machinery."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return ""
    code = frame.f_code
    return f"{code.co_name} ({os.path.basename(code.co_filename)}, line {frame.f_lineno})"


def _said(busy: list[Busy]) -> str:
    return ", ".join(map(str, busy))


def _before() -> None:
    busy = _bring_to_rest(_Rest(None))
    if busy:
        warn_of_hazard(
            f"a fork went ahead although {_said(busy)} did not come to rest in the time that forks wait for it "
            "(fork_grace, park_timeout): the child finds in the middle what that is busy with",
            add,
        )


def _after() -> None:
    """In parent and child: this thread's fork is over. In a child those of threads that vanished are, too."""
    mine = [rest for rest in _rests if rest.limit is None and rest.token == atfork.token()]
    if mine:  # else the fork was made by C
        _end(mine[-1])
