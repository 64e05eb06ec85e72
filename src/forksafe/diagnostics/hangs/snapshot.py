"""What there was when a process forked, kept for the child, so that one that hangs can be told what it hangs on.

Guarantees: nothing is changed, taken or waited for. Stacks are text; of objects nothing is kept but their id(), and of
locks that were held the lock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from forksafe.diagnostics.detectors.imports import imports_under_way
from forksafe.diagnostics.detectors.locks import HeldLock, held_locks
from forksafe.introspection.stacks import frames_of, has_single_stack, line_of, other_threads, writers

__all__ = ["AtFork", "Vanished", "lines_of", "objects_of", "remember"]

_BEGINNINGS = ("run", "_bootstrap_inner", "_bootstrap")
# Of these many share one object, so that it tells nothing.
_COMMON = frozenset({type(None), bool, int, float, str, bytes, tuple, type, type(os), type(os.walk), type(len)})


@dataclass(frozen=True)
class Vanished:
    """A thread that a child does not have, as it was at the fork. stack: innermost line first. had: id()s of what its
    variables were."""

    name: str
    stack: list[str]
    had: frozenset[int]

    def waits(self) -> bool:
        """In a condition, whose lock it has let go."""
        return bool(self.stack) and self.stack[0].endswith(" in wait")


@dataclass(frozen=True)
class AtFork:
    """imports: modules that were half imported, by which thread; writing: what was being written to, and by whom."""

    pid: int
    held: tuple[HeldLock, ...]
    threads: tuple[Vanished, ...]
    imports: dict[str, str]
    writing: dict[str, str]
    descriptors: frozenset[int]

    def named(self, name: str) -> list[Vanished]:
        return [each for each in self.threads if each.name == name][:1]


def remember() -> AtFork:
    """Called by the thread that is about to fork; or in the child of a fork by C, where all is as it was."""
    if has_single_stack():
        return AtFork(os.getpid(), (), (), {}, {}, _descriptors())
    return AtFork(
        os.getpid(),
        tuple(held_locks()),
        tuple(map(_vanished, other_threads())),
        {name: thread.name for name, thread in imports_under_way()},
        {f"descriptor {descriptor} ({target})": thread.name for thread, descriptor, target in writers()},
        _descriptors(),
    )


def _vanished(thread: threading.Thread) -> Vanished:
    frames = list(frames_of(thread))
    return Vanished(thread.name, lines_of(frames), frozenset(key for frame in frames for key in objects_of(frame)))


def lines_of(frames: Iterable[FrameType]) -> list[str]:
    """As text, but for the import system's own lines, and those that begin every thread."""
    return [
        line_of(frame)
        for frame in frames
        if not (code := frame.f_code).co_filename.startswith("<frozen importlib")
        and not (code.co_filename == threading.__file__ and code.co_name in _BEGINNINGS)
    ]


def objects_of(frame: FrameType) -> list[int]:
    """The id()s of what a function's variables are, but for what tells nothing."""
    if frame.f_locals is frame.f_globals:
        return []
    values: list[Any] = list(frame.f_locals.values())
    return [id(value) for value in values if type(value) not in _COMMON]


def _descriptors() -> frozenset[int]:
    try:
        return frozenset(int(name) for name in os.listdir("/proc/self/fd"))
    except OSError:
        return frozenset()
