"""quiesce(): pauses forksafe's executors and background threads, so that a fork finds none of their work half done.

Guarantees: all members are told to pause first and are waited for then, so one time limit holds for all of them. A
member that is added during a pause is paused, too. A thread that is still busy when the time is up is named, with the
line it is at, and the fork goes ahead. The thread that forks or quiesces does not wait for itself. All members resume
afterwards, in parent and child, also when the wait was interrupted. Other threads' forks wait for the end of the block.

Why that survives fork: pauses are not counted. A _Pause names the thread that asks for it, and it is over where that
thread has vanished. A program in which no fork waits pays nothing: the hooks are registered by the first member that
forks wait for.

Not covered: threads that are not forksafe's. A fork made by C waits for no thread; quiesce() around it does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from forksafe.arguments import seconds
from forksafe.atfork.gate import (
    lock_across_forks,
    lock_gate,
    unlock_across_forks,
    unlock_gate,
    warn_of_hazard,
    warn_of_overdue,
)
from forksafe.atfork.participants import Participants
from forksafe_core import atfork

__all__ = ["Busy", "Pausable", "add", "blockers", "is_paused", "quiesce"]


@dataclass(frozen=True)
class Busy:
    """A thread that was still busy when the time was up. where: the file, line and function it was in."""

    name: str
    where: str

    def __str__(self) -> str:
        return f"{self.name} at {self.where}" if self.where else self.name


class Pausable(Protocol):
    """A member: something with threads that can be paused."""

    def _apply_pauses(self) -> None:
        """Begin nothing while is_paused(self), else go on. Called whenever that may have changed.

        An implementation asks and acts under one lock of its own, so that the last answer counts.
        """

    def _wait_until_idle(self, seconds: float) -> list[threading.Thread]:
        """The threads, other than the calling one, that are still busy after that time."""


class _Pause:
    """A fork, or a block of quiesce(), that members pause for. limit: seconds; None for a fork: each its fork_grace."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.members = _awaited_by_forks if limit is None else _members
        self.token = atfork.token()
        self.generation = atfork.generation()
        self.timed_out: list[Any] = []  # members that were still busy

    def is_over(self) -> bool:
        """True in a child if its thread vanished, and for a block, which has served its purpose there."""
        return atfork.gone(self.token) or (self.limit is not None and self.generation != atfork.generation())

    def begin(self) -> list[Busy]:
        """Pause the members, and wait for them. Returns the threads that are still busy when the time is up."""
        start = time.monotonic()
        _pauses.append(self)
        members = list(self.members)
        for member in members:
            member._apply_pauses()
        return [busy for member in members for busy in self._wait_for(member, start)]

    def end(self) -> None:
        _pauses[:] = [pause for pause in _pauses if pause is not self and not pause.is_over()]
        for member in self.members:
            member._apply_pauses()

    def _wait_for(self, member: Pausable, start: float) -> list[Busy]:
        # A fork within a block of quiesce() does not wait again for a member that the block has given up on.
        given_up = any(member in pause.timed_out for pause in list(_pauses) if pause.token == self.token)
        limit = 0 if given_up else self.members.get(member) if self.limit is None else self.limit
        threads = member._wait_until_idle(max(start + (limit or 0) - time.monotonic(), 0.0))
        if not threads:
            return []
        from forksafe.introspection.stacks import frames_of, place_of  # which takes long to import

        self.timed_out.append(member)
        return [Busy(thread.name, place_of(frames_of(thread))) for thread in threads]


def add(member: Pausable, fork_grace: float | None) -> None:
    """Add a member, weakly. fork_grace: the seconds that every fork waits for it; None if only quiesce() pauses it.

    Added again, it has the new fork_grace.
    """
    _members.add(member)
    if fork_grace is None:
        _awaited_by_forks.discard(member)
    else:
        _awaited_by_forks.add(member, fork_grace)
    if _pauses:
        member._apply_pauses()


def is_paused(member: Pausable, but: int = 0) -> bool:
    """Whether it is to begin nothing, for a fork or block of any thread except the one with that token."""
    return any(token != but for token in blockers(member))


def blockers(member: Pausable) -> list[int]:
    """The tokens of the threads that keep it paused."""
    return [pause.token for pause in list(_pauses) if member in pause.members and not pause.is_over()]


@contextmanager
def quiesce(timeout: float = 5.0, *, strict: bool = False) -> Iterator[list[Busy]]:
    """Do for a fork by hand, as in C, what forks of Python do on their own: `with quiesce(): fork()`.

    All executors of forksafe begin nothing more and their running tasks are waited for, its background threads come to
    their checkpoints, and all locks made with hold=True are taken, until the block is left: by the parent, and by the
    child, which holds those locks as well and can use its executors at once. Forks of other threads wait until it is
    left, at most ten seconds.

    It gives the list of the threads that were still busy after `timeout` seconds, with a ForkHazardWarning; strict:
    TimeoutError, and everything goes on. Blocks may be nested. TypeError or ValueError for a timeout that is no number
    of seconds.
    """
    pause = _Pause(seconds(timeout, "quiesce(timeout)"))
    gate_locked = lock_gate()
    try:
        busy = pause.begin()
        if busy:
            message = f"{_named(busy)} did not come to rest within {timeout:g} seconds"
            if strict:
                raise TimeoutError(f"quiesce(): {message}")
            warn_of_hazard(f"quiesce(): {message}: a child would find its work half done", quiesce, 5)
        held, overdue = lock_across_forks()
        warn_of_overdue(overdue)
        try:
            yield busy
        finally:
            unlock_across_forks(held)
    finally:
        pause.end()
        unlock_gate(gate_locked)


def _named(busy: list[Busy]) -> str:
    return ", ".join(map(str, busy))


def _before(_: list[Any]) -> None:
    busy = _Pause(None).begin()
    if busy:
        warn_of_hazard(
            f"a fork went ahead although {_named(busy)} did not come to rest in the time that forks wait for it "
            "(fork_grace, park_timeout): the child finds its work half done",
            add,
        )


def _after(_: list[Any]) -> None:
    """In parent and child: this thread's fork is over. In a child those of threads that vanished are, too."""
    mine = [pause for pause in _pauses if pause.limit is None and pause.token == atfork.token()]
    if mine:  # else the fork was made by C
        mine[-1].end()


_pauses: list[_Pause] = []  # under way, a thread's innermost last
_members = Participants()
_awaited_by_forks = Participants(before=_before, after_in_parent=_after, after_in_child=_after, together=True)
