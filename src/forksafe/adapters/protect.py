"""protect(): objects that exist already, made usable in children.

Guarantees, in a child: what a protected object has open is a tombstone before any Python runs. Then the object, and
each part of it that has an adapter, is reset, unless the thread that forked provably held it: see the adapters. An
object of no known type is protected by what it leads to: locks, queues, sockets, clients.

Why that survives fork: objects are held weakly and searched again before each fork, so that what they are given later
counts too. After a fork by C the child does so at its first use of forksafe.

Not covered: data that was being changed when its thread vanished (forksafe.Lock(hold=True) is for that). A
queue.SimpleQueue, for Python cannot reach its lock (install() replaces the type). Connections that an object of no
known type opened since it was protected, in a fork by C.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from forksafe.adapters.registry import OPEN, Adapter, adapter_of, register_adapter
from forksafe.atfork.participants import Participants
from forksafe.descriptors import search
from forksafe.introspection.exemptions import exempt_objects
from forksafe_core import atfork

__all__ = ["Adapter", "protect", "register_adapter", "unprotect"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Part:
    """A protected object, or an object that one consists of. found: its descriptors, if its type is unknown."""

    obj: Any
    adapter: Adapter | None
    found: search.Found | None
    parts: Iterator[Any]

    def is_held(self) -> bool:
        return self.adapter is not None and self.adapter.held is not None and bool(self.adapter.held(self.obj))


class _Protection:
    """What is kept for one protected object."""

    __slots__ = ("files", "flagged", "undo", "watched")

    def __init__(self) -> None:
        self.files: dict[int, tuple[str, ...]] = {}  # by id: the names of files that were found in an object
        self.flagged: set[int] = set()  # by this protection, not before
        self.undo: list[Callable[[], object]] = []
        self.watched: dict[int, Callable[[], Any]] = {}  # by id

    def flag(self, obj: object, found: search.Found | None = None) -> None:
        """In children, what this has open is dead."""
        if isinstance(obj, int):
            found = search.Found((obj,))
        elif found is None:
            found = search.find(obj)
        if found.files:
            self.files[id(obj)] = found.files
        for descriptor in found.descriptors:
            try:
                if not atfork.is_flagged(descriptor):
                    atfork.flag(descriptor)
                    self.flagged.add(descriptor)
            except OSError:  # closed since it was found
                continue

    def walk(self, obj: object) -> search.Found:
        """What an object has open at a fork. An object that another thread may be using is not called."""
        return search.walk(obj, search.Found(files=self.files.get(id(obj), ())))

    def look(self, part: _Part, at_fork: bool = False) -> None:
        """Flag what a part has open, and have it tell what it opens from now on, where it can."""
        obj, adapter = part.obj, part.adapter
        if adapter is None:
            self.flag(obj, part.found)
            return
        watched = self.watched.get(id(obj))
        if adapter.watch is not None and (watched is None or watched() is not obj):
            self.undo.append(adapter.watch(obj, self.flag))
            self.watched[id(obj)] = weakref.ref(obj)
        for each in adapter.connections(obj) if adapter.connections is not None else ():
            self.flag(each, self.walk(each) if at_fork and not isinstance(each, int) else None)

    def end(self) -> None:
        for undo in self.undo:
            undo()
        for descriptor in self.flagged:
            atfork.unflag(descriptor)


def protect(obj: T, *, verbose: bool = False) -> T:
    """Make an object that exists already usable in children; returns it.

    Takes standard locks, conditions, events, semaphores, barriers, queues and logging handlers; anything open with a
    fileno(); engines, pools, sessions, clients and event loops of known types; and any object that leads to some of
    these. On a class, as a decorator: each instance, once it is made. verbose: print to stderr what was found.
    Objects are held weakly. TypeError if there is nothing that could be done.
    """
    if isinstance(obj, type):
        _protect_instances(obj)
        return obj
    parts = _parts_of(obj)
    top = parts[-1]
    if len(parts) == 1 and top.adapter in (None, OPEN) and not (top.found or search.find(obj)).descriptors:
        raise TypeError(_nothing_to_do(obj))
    protection = _remember(obj, parts)
    if verbose:
        print(_explanation(parts, protection), file=sys.stderr)
    return obj


def unprotect(obj: T) -> T:
    """Undo protect(obj); returns it. ValueError if it is not protected."""
    protection = _protected.get(obj)
    if protection is None:
        raise ValueError(f"unprotect(): this {type(obj).__name__} is not protected")
    _protected.discard(obj)
    protection.end()
    return obj


def _remember(obj: Any, parts: list[_Part]) -> _Protection:
    protection: _Protection | None = _protected.get(obj)
    if protection is not None:
        return protection
    protection = _Protection()
    try:
        _protected.add(obj, protection)
    except TypeError:
        raise TypeError(
            f"protect(): a {type(obj).__name__} cannot be referred to weakly; add '__weakref__' to its __slots__, or "
            "protect the locks in it, and use close_on_fork() for what it has open"
        ) from None
    try:
        for part in parts:
            protection.look(part)
    except BaseException:
        _protected.discard(obj)
        protection.end()
        raise
    return protection


def _protect_instances(cls: type) -> None:
    make = cls.__init__  # type: ignore[misc]
    if not cls.__weakrefoffset__:
        raise TypeError(
            f"protect(): instances of {cls.__name__} cannot be referred to weakly; add '__weakref__' to its __slots__"
        )

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        if self not in _protected:
            _remember(self, _parts_of(self))

    cls.__init__ = __init__  # type: ignore[misc]


def _nothing_to_do(obj: Any) -> str:
    name = f"{type(obj).__module__}.{type(obj).__qualname__}"
    if name == "_queue.SimpleQueue":
        return (
            "protect(): a compiled queue.SimpleQueue keeps its lock where Python cannot reach it; make it after "
            "forksafe.install(), or use queue.Queue"
        )
    return (
        f"protect() can do nothing for a {name}: it is no lock, condition, event, semaphore, barrier, queue or logging "
        "handler, has nothing open, and leads to no such object; for other types use register_adapter() and "
        "register_finder()"
    )


def _explanation(parts: list[_Part], protection: _Protection) -> str:
    names = [f"{type(part.obj).__module__}.{type(part.obj).__qualname__}" for part in parts]
    lines = [f"forksafe: protect({names[-1]}):"]
    for part, name in zip(parts, names, strict=True):
        if part.adapter is not None:
            does = ["reset in children"] if part.adapter.reset else []
            if part.adapter.connections:
                does.append(f"its connections {'and later ones ' if part.adapter.watch else ''}are dead there")
            lines.append(f"  a {name}: {', '.join(does) or 'needs nothing'}")
    lines.append(f"  descriptors that are dead in children: {sorted(protection.flagged) or 'none now'}")
    found = parts[-1].found or search.Found()
    if found.cut_short:
        lines.append("  it leads to too many objects: some were not searched")
    lines += [f"  not found: the descriptors of a {type(each).__qualname__}" for each in found.opaque]
    return "\n".join(lines)


def _parts_of(top: Any, walk: Callable[[Any], search.Found] = search.walk) -> list[_Part]:
    """A protected object and what it consists of, each after its own parts."""

    def part(obj: Any) -> _Part:
        adapter = adapter_of(obj)
        if adapter is not None:
            return _Part(obj, adapter, None, iter(adapter.parts(obj) if adapter.parts else ()))
        found = walk(obj)
        known = [each for each in found.objects if each is not obj and adapter_of(each) is not None]
        return _Part(obj, None, found, iter(known))

    done: list[_Part] = []
    seen = {id(top)}
    path = [part(top)]
    while path:
        for each in path[-1].parts:  # goes on where it stopped
            if id(each) not in seen:
                seen.add(id(each))
                path.append(part(each))
                break
        else:
            done.append(path.pop())
    return done


def _everything(objects: list[Any]) -> list[tuple[_Protection, _Part]]:
    """These protected objects and what they consist of, each once, after its own parts."""
    everything: dict[int, tuple[_Protection, _Part]] = {}
    for obj in objects:
        protection: _Protection | None = _protected.get(obj)
        if protection is None:  # unprotected since
            continue
        try:
            for part in _parts_of(obj, protection.walk):
                everything.setdefault(id(part.obj), (protection, part))
        except Exception as error:  # an adapter's; the other objects are still dealt with
            atfork.write_unraisable(error, obj)
    return list(everything.values())


_held_at_fork: list[set[int]] = []  # ids, of the forks under way; empty where no hook ran before the fork


def _look(objects: list[Any]) -> None:
    held: set[int] = set()
    _held_at_fork.append(held)
    for protection, part in _everything(objects):
        try:
            protection.look(part, at_fork=True)
            if part.is_held():
                held.add(id(part.obj))
        except Exception as error:
            atfork.write_unraisable(error, part.obj)


def _forget_look(_: list[Any]) -> None:
    if _held_at_fork:
        _held_at_fork.pop()


def _reset_all(objects: list[Any]) -> None:
    held = _held_at_fork[-1] if _held_at_fork else None
    _held_at_fork.clear()
    for protection, part in _everything(objects):
        protection.flagged.clear()  # these are tombstones; their numbers are the child's
        try:
            is_held = part.is_held() if held is None else id(part.obj) in held
            if part.adapter is not None and part.adapter.reset is not None and not is_held:
                part.adapter.reset(part.obj)
        except Exception as error:
            atfork.write_unraisable(error, part.obj)


_protected = Participants(before=_look, after_in_parent=_forget_look, after_in_child=_reset_all, together=True)
exempt_objects(_protected.__contains__)
