"""Owned values: what becomes of a process's values at a fork, and when the process ends.

Guarantees
  - The descriptors of a value are flagged when it is made and searched again before each fork, since many clients
    connect late. In a child they are tombstones before any Python runs there.
  - In a child an inherited value is abandoned: an object that is never freed refers to it. So no finaliser of it, or
    of what it alone refers to, runs there, not even at the end of the interpreter.
  - A process cleans up its values at its end, last made first: by atexit, and in multiprocessing's children, which skip
    atexit, by multiprocessing.util.Finalize. They are never cleaned up in another process, nor after os._exit().
  - A value made with on_fork="transfer" goes to the next child that os.fork() really makes. When that child has said
    that it has the value, the parent's descriptors become tombstones and the parent abandons its value. Until then the
    parent keeps it. A child that says so too late abandons the value.

Not covered: a fork in the moment between the making of a value and own(): the child shares it, but has no thread that
could use or free it. After a fork made by C no hook runs in the parent, so nothing is transferred: the child abandons
the value. SQLite keeps in memory, for each file, what its process has locked, and a child inherits that: if a file was
open in WAL mode or in a transaction, a child that opens it again is warned.
"""

from __future__ import annotations

import atexit
import os
import select
import stat
import sys
import warnings
from collections.abc import Callable
from typing import Any

from forksafe.atfork.hooks import register_at_fork
from forksafe.descriptors import known_types, search
from forksafe.errors import ForkHazardWarning
from forksafe_core import atfork

__all__ = [
    "Finalizer",
    "Owned",
    "OwnershipPolicy",
    "abandon",
    "abandon_inherited",
    "end",
    "end_all",
    "own",
    "warn_locked",
]

TRANSFER_TIMEOUT = 5.0  # seconds for a new child to say that it has what is transferred to it
GONE = -1  # in place of a generation
_ROUNDS = 100  # of cleaning up at exit, in which values may be made anew


class OwnershipPolicy:
    """What holds for all values of one kind.

    inherited: a value of it was abandoned here because of a fork. locked: the files that SQLite had locked for it.
    """

    __slots__ = ("fds", "inherited", "locked", "name", "on_fork")

    def __init__(self, name: str, fds: search.Fds | None, on_fork: str) -> None:
        self.name = name
        self.fds = fds
        self.on_fork = on_fork
        self.inherited = False
        self.locked: set[str] = set()


class Owned:
    """A value and the generation that it belongs to; GONE when this process must not use it any more."""

    __slots__ = ("__weakref__", "clean_up", "found", "generation", "policy", "value")

    def __init__(self, value: Any, policy: OwnershipPolicy, clean_up: Callable[[], object] | None) -> None:
        self.value = value
        self.policy = policy
        self.clean_up = clean_up
        self.found = search.Found()
        self.generation = atfork.generation()

    def flag(self) -> None:
        """Flag what it has open now, and unflag what it no longer has."""
        before = self.found.descriptors
        try:
            self.found = search.flag(self.value, self.policy.fds, self.found)
        except Exception as error:  # of fds=; nothing may stop a fork half-way, and what was flagged stays flagged
            atfork.write_unraisable(error, self.policy.fds)
            return
        if not self.found.unknown:  # else what was found before may still be open
            unflag_files(set(before).difference(self.found.descriptors))


class Finalizer:
    """Cleans a value up when it is collected itself, with the place in which the value can be asked for."""

    __slots__ = ("owned",)

    def __init__(self, owned: Owned) -> None:
        self.owned = owned

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if self.owned.generation >= 0 and not is_finalizing():  # a default, because the module's names may be gone then
            end(self.owned)


class _Handover:
    """What one fork is to transfer, and a pair of sockets, by which the child says that it has it."""

    def __init__(self, values: list[Owned]) -> None:
        import socket

        self.values = values
        self.parents_end, self.childs_end = socket.socketpair()


_live: dict[int, Owned] = {}  # by id, in the order in which they were made
_ending: dict[object, Owned] = {}  # those that are being cleaned up
_handovers: dict[int, list[_Handover | None]] = {}  # by thread token: of the forks it is going through
_checked = atfork.generation()  # the generation that has dealt with what it inherited
_at_exit: int | None = None  # the generation that has arranged for end_all()


def own(value: Any, policy: OwnershipPolicy, clean_up: Callable[[], object] | None, stacklevel: int = 4) -> Owned:
    """Take a value that this process made: flag it, and clean it up at exit. Warns if its descriptors are not found.

    If fds= raises, or the warning is an error, nothing is left behind: the caller cleans the value up.
    """
    owned = Owned(value, policy, clean_up)
    owned.found = search.flag(value, policy.fds)
    if owned.found.unknown:
        search.warn_unknown(value, policy.name, owned.found, stacklevel)
    _live[id(owned)] = owned
    _arrange_end()
    return owned


def warn_locked(policy: OwnershipPolicy, stacklevel: int) -> None:
    """Warn a child that is about to make a value anew, if SQLite had locked its files in the parent."""
    if policy.locked:
        warnings.warn(
            f"{policy.name}: {', '.join(sorted(policy.locked))} was open in SQLite at the fork, in WAL mode or in a "
            "transaction. SQLite believes that this child has locked what its parent had: it may find the file locked "
            "for ever, or read it while it is written. Close it before forks, and the next use opens it again: "
            "forksafe.before(db.close)",
            ForkHazardWarning,
            stacklevel=stacklevel,
        )


def end(owned: Owned) -> bool:
    """Clean a value up, if it is this process's, once. Raises what its clean-up raises."""
    if owned.generation != atfork.generation():
        return False
    claim = object()
    _ending[claim] = owned  # before the next step: a child must find it in one of the two
    try:
        if _live.pop(id(owned), None) is None:
            return False
        owned.generation = GONE
        unflag_files(owned.found.descriptors)
        if owned.clean_up is not None:
            owned.clean_up()
        return True
    finally:
        _ending.pop(claim, None)  # None: in a child it has been abandoned


def end_all() -> None:
    """Clean up every value that this process made, last made first."""
    generation = atfork.generation()
    for _ in range(_ROUNDS):
        mine = [owned for owned in reversed(list(_live.values())) if owned.generation == generation]
        if not mine:
            return
        for owned in mine:
            try:
                end(owned)
            except BaseException as error:  # the others are still cleaned up
                atfork.write_unraisable(error, owned.clean_up)


def abandon_inherited() -> None:
    """In a child, once: take what was transferred, abandon everything else that was inherited."""
    global _checked
    generation = atfork.generation()
    if _checked == generation:
        return
    _checked = generation
    inherited = [owned for owned in [*_live.values(), *_ending.values()] if owned.generation != generation]
    _ending.clear()
    transferred = _take_over(generation)
    for owned in inherited:
        if owned not in transferred:
            owned.policy.inherited = True
            owned.policy.locked |= known_types.locked(owned.found.files)
            _disown(owned)


def unflag_files(descriptors: Any) -> None:
    """Unflag files before they are closed: away from Linux the core takes the same file, opened again, for them."""
    for descriptor in descriptors:
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:
            continue
        if not stat.S_ISSOCK(mode) and not stat.S_ISFIFO(mode):
            atfork.unflag(descriptor)


def _disown(owned: Owned) -> None:
    """It is not this process's any more, and is kept alive for good."""
    _live.pop(id(owned), None)
    owned.generation = GONE
    atfork.keep_alive(owned)


def abandon(owned: Owned) -> None:
    """Abandon a value that is another process's, and put tombstones over what it has open here and now."""
    for descriptor in owned.found.descriptors:
        try:
            atfork.tombstone(descriptor)
        except OSError:
            continue
    _disown(owned)


def _arrange_end() -> None:
    global _at_exit
    generation = atfork.generation()
    if _at_exit == generation:
        return
    if _at_exit is None:
        atexit.register(end_all)  # children inherit that
    _at_exit = generation
    processes: Any = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, end_all, exitpriority=0)


def _before_fork() -> None:
    stack = _handovers.setdefault(atfork.token(), [])
    stack.append(None)
    transferred = []
    for owned in list(_live.values()):
        owned.flag()
        if owned.policy.on_fork == "transfer":
            transferred.append(owned)
    if not transferred:
        return
    try:
        stack[-1] = _Handover(transferred)
    except OSError as error:  # no descriptor is left: the parent keeps everything
        atfork.write_unraisable(error, _before_fork)
        return
    for owned in transferred:
        for descriptor in owned.found.descriptors:
            atfork.unflag(descriptor)


def _after_in_parent() -> None:
    stack = _handovers.get(atfork.token())
    handover = stack.pop() if stack else None
    if not stack:
        _handovers.pop(atfork.token(), None)
    if handover is None:
        return
    handover.childs_end.close()
    taken = _is_taken(handover.parents_end)
    handover.parents_end.close()
    for owned in handover.values:
        if owned.generation == GONE:  # since cleaned up, or transferred by a fork in a hook
            continue
        if taken:
            abandon(owned)
        else:
            owned.flag()


def _is_taken(end: Any) -> bool:
    """Wait until the child has said that it has the values, or the last copy of its end is closed."""
    import socket

    poll = select.poll() if hasattr(select, "poll") else None
    if poll is not None:
        poll.register(end, select.POLLIN)
        poll.poll(TRANSFER_TIMEOUT * 1000)
    end.setblocking(False)
    end.shutdown(socket.SHUT_RD)  # from now on the child cannot say so; what it has sent can still be read
    try:
        return bool(end.recv(1))
    except OSError:
        return False


def _take_over(generation: int) -> list[Owned]:
    """In the child: the values that are its own now, and that its parent abandons."""
    stack = _handovers.get(atfork.token())
    handover = stack[-1] if stack else None
    _handovers.clear()
    if handover is None:
        return []
    handover.parents_end.close()
    values = [owned for owned in handover.values if owned.generation != GONE]
    try:
        handover.childs_end.send(b"!")
    except OSError:  # too late, or the parent has died: the child cannot tell which
        for owned in values:
            abandon(owned)
        return []
    finally:
        handover.childs_end.close()
    for owned in values:
        owned.generation = generation
        owned.flag()
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:  # its children forget all finalizers that were made before this
        util.register_after_fork(end_all, lambda _: _arrange_end())
    return values


register_at_fork(before=_before_fork, after_in_parent=_after_in_parent, after_in_child=abandon_inherited)
