"""Hang: what a thread of a child has been blocked on for long, explained by what there was when the process forked.

Guarantees: a thread is reported if it has not moved for a while, is inside a system call that waits, and waits for
something that the fork broke: an inherited lock, a half-made import, a file object that another thread was writing to,
or a descriptor that was open at the fork. The work of a vanished thread is reported only if nothing in the process
moves. Nothing is taken, written or asked for.

Not covered: processes whose state the system does not show (not Linux on x86-64). There a thread that does not move
counts as blocked, and descriptors are not reported.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from forksafe.diagnostics.detectors.locks import OURS, RLOCKS, holder_of
from forksafe.diagnostics.hangs.blocked_lock import find_blocked_lock
from forksafe.diagnostics.hangs.snapshot import Snapshot, VanishedThread, lines_of, objects_of
from forksafe.introspection.stacks import frames_of, is_machinery, system_call
from forksafe.introspection.threads import count

__all__ = ["BlockedThread", "Hang", "Watch", "explain", "vanished_work"]

# System calls that wait, by number, on x86-64: for a lock, or for bytes.
_FOR_A_LOCK = (202, 449)  # futex, futex_waitv
_FOR_BYTES = {0: "read", 19: "readv", 45: "recvfrom", 47: "recvmsg",
              1: "write", 20: "writev", 44: "sendto", 46: "sendmsg"}  # fmt: skip
_WORKERS = {("multiprocessing", "pool.py", "worker"), ("concurrent", "process.py", "_process_worker")}
_IMPORTS = ("_find_and_load", "_lock_unlock_module")
_WRITES = {"print", "write", "writelines", "flush", "close"}
_UNDONE = "something that another thread was to do when the process forked"


@dataclass(frozen=True)
class Hang:
    """A thread of this process that does not move. on: what it waits for. holder: the vanished thread that had that,
    "" if unknown; holder_stack: where that thread was at the fork. cure: what to change."""

    thread: str
    seconds: float
    stack: list[str]
    on: str
    holder: str
    holder_stack: list[str]
    cure: str

    def text_of_holder(self) -> str:
        task = "to be done" if self.on == _UNDONE else "held"
        return f"{task} by {self.holder}, which does not exist in this process" if self.holder else ""

    def text(self) -> str:
        """The report, to follow a line that names the process."""
        lines = [f"  {self.thread} waits for {self.on}; it is at", *(f"    {line}" for line in self.stack)]
        if self.holder:
            lines.append(f"  {self.text_of_holder()}{'; at the fork it was at' if self.holder_stack else ''}")
            lines += [f"    {line}" for line in self.holder_stack]
        return "\n".join([*lines, f"  -> {self.cure}", ""])


class BlockedThread:
    """A thread that has not moved for some seconds. call: the system call that it is in, with its first argument; None
    if the system does not tell. lock: the one it waits for, with its name."""

    def __init__(
        self, thread: threading.Thread, frames: list[Any], seconds: float, call: tuple[int | None, int]
    ) -> None:
        self.thread = thread
        self.frames = frames
        self.seconds = seconds
        self.call, self.argument = call
        self.lock: Any
        self.lock, self.name = find_blocked_lock(frames) if self.may_want_a_lock() else (None, "")

    def may_want_a_lock(self) -> bool:
        return self.call is None or self.call in _FOR_A_LOCK

    def waits(self) -> bool:
        """Whether it is in a condition's wait(), so that it does not hold the condition's lock."""
        return bool(self.frames[0].f_code.co_name == "wait")

    def hang(self, on: str, cure: str, holders: Sequence[VanishedThread] = (), holder: str = "") -> Hang:
        return Hang(
            self.thread.name,
            self.seconds,
            lines_of(self.frames),
            on,
            " or ".join(each.name for each in holders) or holder,
            holders[0].stack if holders else [],
            cure,
        )


class Watch:
    """Looks at the threads of a child again and again. ignore: the thread that looks."""

    def __init__(self, snapshot: Snapshot, seconds: float) -> None:
        self.snapshot = snapshot
        self.seconds = seconds
        self.ignore: threading.Thread | None = None
        self._seen: dict[int, tuple[tuple[int, int], float]] = {}  # by ident: where it is, and since when

    def look(self) -> Hang | None:
        """The first thread that has been blocked for longer than `seconds` on something that the fork broke."""
        now = time.monotonic()
        unmoved: list[BlockedThread] = []
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
                unmoved.append(BlockedThread(thread, frames, now - since, _system_call(thread)))
        return self._first_of(unmoved, threads)

    def _first_of(self, unmoved: list[BlockedThread], threads: list[threading.Thread]) -> Hang | None:
        for blocked in unmoved:
            # A thread that is in wait(), or waits for the same lock, does not hold it.
            waits = {each.thread for each in unmoved if each.waits() or each.lock is blocked.lock is not None}
            found = explain(self.snapshot, blocked, {each.ident or 0 for each in threads if each not in waits})
            if found is not None:
                return found
        idle = sum(blocked.may_want_a_lock() for blocked in unmoved)
        if unmoved and self.snapshot.threads and idle == len(threads) and count() in (0, len(threads) + 1):
            return vanished_work(self.snapshot, unmoved[0])
        return None


def explain(snapshot: Snapshot, blocked: BlockedThread, others: set[int]) -> Hang | None:
    """What a thread is blocked on, if the fork broke that.

    others: idents of threads of this process that may hold a lock, without the one that looks. A vanished thread may
    have had the same ident.
    """
    if blocked.call in _FOR_BYTES:
        return _on_bytes(snapshot, blocked)
    if not blocked.may_want_a_lock():
        return None
    found = _on_import(snapshot, blocked)
    if found is None and blocked.lock is not None:  # a fork leaves none of forksafe's locks held
        return None if type(blocked.lock) in OURS else _on_lock(snapshot, blocked, others)
    return found or _on_file(snapshot, blocked)


def vanished_work(snapshot: Snapshot, blocked: BlockedThread) -> Hang | None:
    """What a thread waits for if nothing in its process moves."""
    if _is_idle_worker(blocked.frames):
        return None
    return blocked.hang(
        _UNDONE,
        "forksafe's executors, BackgroundThread and ConnectionPool, and protect(), give the child threads and "
        "connections of its own; or start the program with forksafe run",
        _suspects(snapshot.threads, blocked.frames),
    )


def _on_lock(snapshot: Snapshot, blocked: BlockedThread, others: set[int]) -> Hang | None:
    name = blocked.name
    held = next((held for held in snapshot.held if held.lock is blocked.lock), None)
    if held is not None:
        name = held.found
        holders = snapshot.named(held.thread.name) if held.thread else []
    else:  # it was taken between the snapshot and the fork
        ident = holder_of(blocked.lock)
        if ident in others if ident else others:
            return None  # one of the child's own may hold it
        running = [each for each in snapshot.threads if not each.waits()]
        holders = _suspects(running or snapshot.threads, blocked.frames)
    kind = "RLock" if type(blocked.lock) in RLOCKS else "Lock"
    return blocked.hang(
        f"{'an' if kind == 'RLock' else 'a'} {kind}, {name}, that was held when the process forked",
        f"make it a forksafe.{kind}, call forksafe.protect() on it or its owner, or start the program with "
        "forksafe run",
        holders,
        "another thread",
    )


def _on_import(snapshot: Snapshot, blocked: BlockedThread) -> Hang | None:
    """_ModuleLock.acquire() waits; its callers know for which module."""
    if not blocked.frames[0].f_code.co_filename.startswith("<frozen importlib"):
        return None
    names = [frame.f_locals.get("name") for frame in blocked.frames[:6] if frame.f_code.co_name in _IMPORTS]
    if not names:
        return None
    name = str(names[0])
    holder = next((snapshot.imports[each] for each in (name, *snapshot.imports) if each in snapshot.imports), "")
    return blocked.hang(
        f"the import of {name}, which was under way when the process forked",
        f"import {name.partition('.')[0]} before there are threads, or start the program with forksafe run",
        snapshot.named(holder),
        "another thread",
    )


def _on_file(snapshot: Snapshot, blocked: BlockedThread) -> Hang | None:
    if not snapshot.writing or not _WRITES & set(blocked.frames[0].f_code.co_names):
        return None
    target, holder = next(iter(snapshot.writing.items()))
    return blocked.hang(
        f"the lock inside a file object: {target} was being written to when the process forked",
        "start the program with forksafe run, which repairs standard streams and log files; or quiesce the writer "
        "with forksafe.quiesce()",
        snapshot.named(holder),
    )


def _on_bytes(snapshot: Snapshot, blocked: BlockedThread) -> Hang | None:
    descriptor = blocked.argument
    if descriptor not in snapshot.descriptors or _is_idle_worker(blocked.frames):
        return None
    try:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return None
    return blocked.hang(
        f"{_FOR_BYTES[blocked.call or 0]}() of descriptor {descriptor} ({target}), "
        "which was open when the process forked",
        "close_on_fork() it if it is the parent's, or close the parent's copy if the child waits for the end of file",
    )


def _suspects(threads: Sequence[VanishedThread], frames: Iterable[Any]) -> list[VanishedThread]:
    """Vanished threads that had an object of the innermost of these lines; else workers without a task; else all."""
    for frame in frames:
        for key in objects_of(frame):
            found = [each for each in threads if key in each.objects]
            if found:
                return found
    workers = [each for each in threads if any(line.endswith(" in _worker") for line in each.stack)]
    return workers or list(threads)


def _is_idle_worker(frames: list[Any]) -> bool:
    """Whether it is a process of a pool that waits for its next task: the stack has only machinery down to its loop."""
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
    # After a fork the main thread's native_id is its parent's.
    return system_call(os.getpid() if thread is threading.main_thread() else thread.native_id)
