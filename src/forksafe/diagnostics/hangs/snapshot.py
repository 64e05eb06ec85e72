"""Snapshot: what there was when a process forked, kept for the child, to explain what the child hangs on.

Guarantees: nothing is changed, taken or waited for. Stacks are kept as text, objects as their id(). Only locks that
were held are kept themselves.
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

__all__ = ["Snapshot", "VanishedThread", "lines_of", "objects_of", "take_snapshot"]

_BEGINNINGS = ("run", "_bootstrap_inner", "_bootstrap")
# Many variables refer to one object of these types, so it identifies no thread.
_COMMON = frozenset({type(None), bool, int, float, str, bytes, tuple, type, type(os), type(os.walk), type(len)})


@dataclass(frozen=True)
class VanishedThread:
    """A thread that a child does not have, as it was at the fork. stack: innermost line first. objects: the id()s of
    what its variables referred to."""

    name: str
    stack: list[str]
    objects: frozenset[int]

    def waits(self) -> bool:
        """Whether it was in a condition's wait(), so that it did not hold the condition's lock."""
        return bool(self.stack) and self.stack[0].endswith(" in wait")


@dataclass(frozen=True)
class Snapshot:
    """imports: modules that were half imported; writing: files that were being written to; both with the name of the
    thread. descriptors: those that were open."""

    pid: int
    held: tuple[HeldLock, ...]
    threads: tuple[VanishedThread, ...]
    imports: dict[str, str]
    writing: dict[str, str]
    descriptors: frozenset[int]

    def named(self, name: str) -> list[VanishedThread]:
        return [each for each in self.threads if each.name == name][:1]


def take_snapshot() -> Snapshot:
    """Called by the thread that is about to fork; or in the child of a fork by C code, where memory is unchanged."""
    if has_single_stack():
        return Snapshot(os.getpid(), (), (), {}, {}, _descriptors())
    return Snapshot(
        os.getpid(),
        tuple(held_locks()),
        tuple(map(_vanished, other_threads())),
        {name: thread.name for name, thread in imports_under_way()},
        {f"descriptor {descriptor} ({target})": thread.name for thread, descriptor, target in writers()},
        _descriptors(),
    )


def _vanished(thread: threading.Thread) -> VanishedThread:
    frames = list(frames_of(thread))
    objects = frozenset(key for frame in frames for key in objects_of(frame))
    return VanishedThread(thread.name, lines_of(frames), objects)


def lines_of(frames: Iterable[FrameType]) -> list[str]:
    """A stack as text, without the lines of the import system and those at which every thread begins."""
    return [
        line_of(frame)
        for frame in frames
        if not (code := frame.f_code).co_filename.startswith("<frozen importlib")
        and not (code.co_filename == threading.__file__ and code.co_name in _BEGINNINGS)
    ]


def objects_of(frame: FrameType) -> list[int]:
    """The id()s of what a function's variables refer to, without common objects."""
    if frame.f_locals is frame.f_globals:
        return []
    values: list[Any] = list(frame.f_locals.values())
    return [id(value) for value in values if type(value) not in _COMMON]


def _descriptors() -> frozenset[int]:
    try:
        return frozenset(int(name) for name in os.listdir("/proc/self/fd"))
    except OSError:
        return frozenset()
