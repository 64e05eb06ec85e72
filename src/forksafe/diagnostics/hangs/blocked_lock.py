"""lock_asked_for(): which lock a blocked thread asks for, told from the lines that it is at.

Guarantees: nothing is taken, and none of the program's code is run. A lock is known by a variable, an attribute or a
name of its module that the very line speaks of; a condition stands for its lock.

Not covered: a lock that is reached through a call or an index; compiled code's.
"""

from __future__ import annotations

import dis
import threading
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

from forksafe.diagnostics.detectors.locks import TYPES, is_held
from forksafe.introspection.lock_owners import describe
from forksafe.introspection.stacks import is_machinery
from forksafe.introspection.static import dict_of, mro_of, name_of, namespace_of, slot

__all__ = ["lock_asked_for"]

_NEAR = 4  # lines from the innermost, at most up to the first one that is not the standard library's
_DEEP = 3  # a.b.c.lock
_WAITS = ("wait", "_wait_for_tstate_lock", "join")  # in threading: for what is to happen, not for a lock


def lock_asked_for(frames: list[FrameType]) -> tuple[Any, str]:
    """The lock that a thread is blocked on, and its name as the outermost of these lines knows it; None and "" if none.

    One that says it is free is meant, too, if the line speaks of no other: who has just been given it says so only when
    it runs on, which a thread that vanished does not.
    """
    innermost = frames[0].f_code
    if innermost.co_name in _WAITS and is_machinery(innermost.co_filename):
        return None, ""
    lock, name = None, ""
    for frame in frames[:_NEAR]:
        spoken_of = list(_spoken_of(frame))
        if lock is None:
            held = [value for _, value, _ in spoken_of if is_held(value)]
            lock = (held or [value for _, value, _ in spoken_of] or [None])[0]
        for owner, value, found in spoken_of:
            if value is lock:
                name = found or describe(owner, value)
                break
        if not is_machinery(frame.f_code.co_filename):
            break
    return lock, name


def _names_on_line(frame: FrameType) -> set[str]:
    """What the line that a frame is at speaks of: variables, names of the module, attributes."""
    code = frame.f_code
    ranges = [(start, end) for start, end, line in code.co_lines() if line == frame.f_lineno]
    names: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_CONST" or not instruction.opname.startswith("LOAD"):
            continue
        if any(start <= instruction.offset < end for start, end in ranges):
            loaded = instruction.argval
            names.update(each for each in (loaded if type(loaded) is tuple else (loaded,)) if type(each) is str)
    return names


def _spoken_of(frame: FrameType) -> Iterator[tuple[Any, Any, str]]:
    """Locks, each with what has it, and with a name if that would not tell."""
    names, variables, module = _names_on_line(frame), frame.f_locals, frame.f_globals
    for name in names:
        if name in variables and variables is not module:
            value = variables[name]
            yield from _locks(frame, value, "")
        elif name in module:
            value = module[name]
            yield from _locks(module, value, f"{module.get('__name__')}.{name}")
        else:
            continue
        yield from _attributes(value, names, _DEEP)


def _locks(owner: Any, value: Any, found: str) -> Iterator[tuple[Any, Any, str]]:
    """A lock itself, or a condition's."""
    if type(value) in TYPES:
        yield owner, value, found
    elif issubclass(type(value), threading.Condition):
        lock = dict_of(value).get("_lock")
        if type(lock) in TYPES:
            yield value, lock, found


def _attributes(value: Any, names: set[str], deep: int) -> Iterator[tuple[Any, Any, str]]:
    """An object's own; a class's, asked for by itself or by an instance; a module's; theirs, so many levels deep."""
    kind = type(value)
    own = dict_of(value)
    owner = str(own.get("__name__", "?")) if issubclass(kind, ModuleType) else name_of(kind)
    found = [(value, own[name], f"{owner}.{name}") for name in names if name in own]
    for cls in mro_of(value) if issubclass(kind, type) else mro_of(kind):
        namespace = namespace_of(cls)
        there = [(name, slot(namespace[name], value)) for name in names if name in namespace]
        found += [(cls, each, f"{name_of(cls)}.{name}") for name, each in there]
    for where, each, called in found:
        yield from _locks(where, each, called)
        if deep > 1 and each is not value:
            yield from _attributes(each, names, deep - 1)
