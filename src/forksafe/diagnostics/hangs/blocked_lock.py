"""find_blocked_lock(): which lock a blocked thread waits for, derived from the lines that it is at.

Guarantees: nothing is taken, and none of the program's code is run. A lock is found through a variable, an attribute or
a module's name that is part of the very line; a condition stands for its lock.

Not covered: a lock that the line reaches through a call or an index; compiled code.
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

__all__ = ["find_blocked_lock"]

_NEAR = 4  # lines from the innermost, at most up to the first one outside the standard library
_DEEP = 3  # a.b.c.lock
_WAITS = ("wait", "_wait_for_tstate_lock", "join")  # of threading: they wait for an event, not for a lock


def find_blocked_lock(frames: list[FrameType]) -> tuple[Any, str]:
    """The lock, and its name on the outermost of these lines; None and "" if there is none.

    If the line has no lock that is held, a free one is taken for it: a thread that was just given the lock vanished
    before it could say so.
    """
    innermost = frames[0].f_code
    if innermost.co_name in _WAITS and is_machinery(innermost.co_filename):
        return None, ""
    lock, name = None, ""
    for frame in frames[:_NEAR]:
        found = list(_locks_on_line(frame))
        if lock is None:
            held = [value for _, value, _ in found if is_held(value)]
            lock = (held or [value for _, value, _ in found] or [None])[0]
        for owner, value, known_as in found:
            if value is lock:
                name = known_as or describe(owner, value)
                break
        if not is_machinery(frame.f_code.co_filename):
            break
    return lock, name


def _names_on_line(frame: FrameType) -> set[str]:
    """The variables, attributes and module's names that the line reads."""
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


def _locks_on_line(frame: FrameType) -> Iterator[tuple[Any, Any, str]]:
    """Owner, lock and name of each lock; the name is "" where describe() finds one."""
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


def _locks(owner: Any, value: Any, name: str) -> Iterator[tuple[Any, Any, str]]:
    """The value itself if it is a lock, or a condition's lock."""
    if type(value) in TYPES:
        yield owner, value, name
    elif issubclass(type(value), threading.Condition):
        lock = dict_of(value).get("_lock")
        if type(lock) in TYPES:
            yield value, lock, name


def _attributes(value: Any, names: set[str], deep: int) -> Iterator[tuple[Any, Any, str]]:
    """The locks among the attributes with these names: of an instance, its class, a module; and so many levels deep."""
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
