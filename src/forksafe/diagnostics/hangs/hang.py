"""Stuck: what a thread of a child has been blocked on for long, told from what was there when the process forked.

Guarantees: look() finds threads of the child that have not moved for a while and are inside a system call that waits,
and says for what: an inherited lock that they ask for, a half-made import, a file object that another thread was
writing to, a pipe or socket that was there at the fork, or something that a vanished thread was to do; the latter only
if nothing in the process moves. Nothing is taken, written or asked for.

Not covered: processes whose state the system does not show (not Linux on x86-64): there a thread that does not move is
taken for blocked, and pipes are not told.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from forksafe.diagnostics.detectors.locks import OURS, RLOCKS, holder_of
from forksafe.diagnostics.hangs.blocked_lock import lock_asked_for
from forksafe.diagnostics.hangs.snapshot import AtFork, Vanished, lines_of, objects_of
from forksafe.introspection import threads as alone
from forksafe.introspection.stacks import frames_of, is_machinery, system_call

__all__ = ["Blocked", "Stuck", "Watch", "explain", "in_vain"]

# System calls that wait, by number, on x86-64: for a lock, or for bytes.
_FOR_A_LOCK = {202: "futex", 449: "futex_waitv"}
_FOR_BYTES = {
    0: "read",
    19: "readv",
    45: "recvfrom",
    47: "recvmsg",
    1: "write",
    20: "writev",
    44: "sendto",
    46: "sendmsg",
}
_WORKERS = {("multiprocessing", "pool.py", "worker"), ("concurrent", "process.py", "_process_worker")}
_IMPORTS = ("_find_and_load", "_lock_unlock_module")
_WRITES = {"print", "write", "writelines", "flush", "close"}


@dataclass(frozen=True)
class Stuck:
    """A thread of this process that does not move. on: what it waits for, in words; cure: what to change. holder: whose
    affair that is, where that is known; holder_stack: where that thread was at the fork."""

    thread: str
    seconds: float
    stack: list[str]
    on: str
    holder: str
    holder_stack: list[str]
    cure: str


class Blocked:
    """A thread that has not moved for `seconds`. call: the system call that it is in, and its first argument; None if
    the system does not tell. lock: the one it asks for, with its name."""

    def __init__(
        self, thread: threading.Thread, frames: list[Any], seconds: float, call: tuple[int | None, int]
    ) -> None:
        self.thread = thread
        self.frames = frames
        self.seconds = seconds
        self.call, self.argument = call
        self.lock: Any
        self.lock, self.name = lock_asked_for(frames) if self.may_want_a_lock() else (None, "")

    def may_want_a_lock(self) -> bool:
        return self.call is None or self.call in _FOR_A_LOCK

    def waits(self) -> bool:
        """In a condition, so that it has let its lock go."""
        return bool(self.frames[0].f_code.co_name == "wait")

    def on(self, what: str, cure: str, holders: Sequence[Vanished] = (), holder: str = "") -> Stuck:
        return Stuck(
            self.thread.name,
            self.seconds,
            lines_of(self.frames),
            what,
            " or ".join(each.name for each in holders) or holder,
            holders[0].stack if holders else [],
            cure,
        )


class Watch:
    """The threads of a child, looked at again and again, but for the one that looks: it is to be in `ignore`."""

    def __init__(self, at_fork: AtFork, seconds: float) -> None:
        self.at_fork = at_fork
        self.seconds = seconds
        self.ignore: threading.Thread | None = None
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}  # by ident: where it is, and since when

    def look(self) -> Stuck | None:
        """The first thread that has been blocked for longer than `seconds` on something of the parent's."""
        now = time.monotonic()
        unmoved: list[Blocked] = []
        threads = [thread for thread in threading.enumerate() if thread is not self.ignore]
        for thread in threads:
            frames = list(frames_of(thread))
            if not frames:
                continue
            place = id(frames[0]), frames[0].f_lasti
            before, since = self._seen.get(thread.ident or 0, (None, now))
            if before != place:
                self._seen[thread.ident or 0] = place, now
            elif now - since >= self.seconds:
                unmoved.append(Blocked(thread, frames, now - since, _system_call(thread)))
        return self._first_of(unmoved, threads)

    def _first_of(self, unmoved: list[Blocked], threads: list[threading.Thread]) -> Stuck | None:
        for blocked in unmoved:
            # Who waits, or asks for the same lock, does not hold it.
            waits = {each.thread for each in unmoved if each.waits() or each.lock is blocked.lock is not None}
            found = explain(self.at_fork, blocked, {each.ident or 0 for each in threads if each not in waits})
            if found is not None:
                return found
        idle = sum(blocked.may_want_a_lock() for blocked in unmoved)
        if unmoved and self.at_fork.threads and idle == len(threads) and alone.count() in (0, len(threads) + 1):
            return in_vain(self.at_fork, unmoved[0])
        return None


def explain(at_fork: AtFork, blocked: Blocked, others: set[int]) -> Stuck | None:
    """What a thread is blocked on, if that is a thing of the parent's. others: idents of threads of this process that
    may hold a lock; not that of one which watches: it may be that of one that vanished, too."""
    if blocked.call in _FOR_BYTES:
        return _on_bytes(at_fork, blocked)
    if not blocked.may_want_a_lock():
        return None
    found = _on_import(at_fork, blocked)
    if found is None and blocked.lock is not None:
        return None if type(blocked.lock) in OURS else _on_lock(at_fork, blocked, others)  # ours no fork leaves held
    return found or _on_file(at_fork, blocked)


def in_vain(at_fork: AtFork, blocked: Blocked) -> Stuck | None:
    """What a thread waits for if nothing in its process moves."""
    if _is_idle_worker(blocked.frames):
        return None
    return blocked.on(
        "something that a thread was to do which is not in this process",
        "forksafe's executors, BackgroundThread and ConnectionPool, and protect(), give the child threads and "
        "connections of its own; or start the program with forksafe run",
        _who_had(at_fork.threads, blocked.frames),
    )


def _on_lock(at_fork: AtFork, blocked: Blocked, others: set[int]) -> Stuck | None:
    name = blocked.name
    held = next((held for held in at_fork.held if held.lock is blocked.lock), None)
    if held is not None:
        name = held.found
        suspects = at_fork.named(held.thread.name) if held.thread else []
    else:  # it was taken in the moment between the look at the locks and the fork
        ident = holder_of(blocked.lock)
        if ident in others if ident else others:
            return None  # one of the child's own may hold it
        suspects = _who_had([each for each in at_fork.threads if not each.waits()] or at_fork.threads, blocked.frames)
    kind = "RLock" if type(blocked.lock) in RLOCKS else "Lock"
    return blocked.on(
        f"{'an' if kind == 'RLock' else 'a'} {kind}, {name}, that was held when the process forked",
        f"make it a forksafe.{kind}, call forksafe.protect() on it or its owner, or start the program with "
        "forksafe run",
        suspects,
        "a thread that is not here",
    )


def _on_import(at_fork: AtFork, blocked: Blocked) -> Stuck | None:
    """Where _ModuleLock.acquire() waits, its callers know for which module."""
    if not blocked.frames[0].f_code.co_filename.startswith("<frozen importlib"):
        return None
    names = [frame.f_locals.get("name") for frame in blocked.frames[:6] if frame.f_code.co_name in _IMPORTS]
    if not names:
        return None
    name = str(names[0])
    holder = next((at_fork.imports[each] for each in (name, *at_fork.imports) if each in at_fork.imports), "")
    return blocked.on(
        f"the import of {name}, which was under way when the process forked",
        f"import {name.partition('.')[0]} before there are threads, or start the program with forksafe run",
        at_fork.named(holder),
        "a thread that is not here",
    )


def _on_file(at_fork: AtFork, blocked: Blocked) -> Stuck | None:
    if not at_fork.writing or not _WRITES & set(blocked.frames[0].f_code.co_names):
        return None
    target, holder = next(iter(at_fork.writing.items()))
    return blocked.on(
        f"the lock inside a file object: {target} was being written to when the process forked",
        "start the program with forksafe run, which cures that for standard streams and log files; or quiesce the "
        "writer with forksafe.quiesce()",
        at_fork.named(holder),
    )


def _on_bytes(at_fork: AtFork, blocked: Blocked) -> Stuck | None:
    descriptor = blocked.argument
    if descriptor not in at_fork.descriptors or _is_idle_worker(blocked.frames):
        return None
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return None
    return blocked.on(
        f"{_FOR_BYTES[blocked.call or 0]}() of descriptor {descriptor} ({target}), "
        "which was open when the process forked",
        "close_on_fork() it if it is the parent's, or close in the parent what the child is to see the end of",
    )


def _who_had(threads: Sequence[Vanished], frames: Iterable[Any]) -> list[Vanished]:
    """Those that had to do with what the innermost of these lines has; if there are none, workers that had no task; if
    there are none either, all."""
    for frame in frames:
        for key in objects_of(frame):
            found = [each for each in threads if key in each.had]
            if found:
                return found
    workers = [each for each in threads if any(line.endswith(" in _worker") for line in each.stack)]
    return workers or list(threads)


def _is_idle_worker(frames: list[Any]) -> bool:
    """A process of a pool that waits for its next task: nothing but machinery from there to the innermost line."""
    for frame in frames:
        path = frame.f_code.co_filename
        if not is_machinery(path):
            return False
        folder, _, file = path.rpartition(os.sep)
        if any(
            each in folder and file == name and frame.f_code.co_name == function for each, name, function in _WORKERS
        ):
            return True
    return False


def _system_call(thread: threading.Thread) -> tuple[int | None, int]:
    return system_call(
        os.getpid() if thread is threading.main_thread() else thread.native_id
    )  # a fork has made it wrong
