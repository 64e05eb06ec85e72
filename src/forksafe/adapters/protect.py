"""protect(): objects that exist already, made usable in children.

Guarantees, in a child: a protected standard lock is reinitialised unless the thread that forked provably held it: an
RLock names its owner; a Lock does not, so it is kept only where the forking process had no other thread. The waiters
that conditions and queues remember are forgotten, for their threads vanished. What a queue holds, an event's flag and
a semaphore's count stay. Connections are tombstones before any Python runs, and what kept them, an engine, pool or
client of a known kind (adapters.py, library_adapters.py), is usable with connections of the child's own.

Of an object of no known kind, whatever of these it leads to is protected: its locks, queues, sockets and clients.
Objects are held weakly and looked through again at each fork, so that what they are given later counts too.

Not covered: data that was being changed when its holder vanished (forksafe.Lock(hold=True) is for that); a
queue.SimpleQueue, whose lock Python cannot reach (install() replaces the type); connections that an unknown object
opened since it was protected, in a fork made by C, before which nothing can look.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from forksafe.adapters import (  # noqa: F401  # for the adapters that they register
    asyncio,
    concurrent_futures,
    logging,
    loky,
    multiprocessing,
    sqlalchemy,
    urllib3,
)
from forksafe.adapters.registry import OPEN, Adapter, adapter_of, register_adapter
from forksafe.atfork.hooks import register_at_fork
from forksafe.descriptors import search as finding
from forksafe.introspection.exemptions import exempt_objects
from forksafe_core import atfork

__all__ = ["Adapter", "protect", "register_adapter", "unprotect"]

T = TypeVar("T")


class _Protection:
    """What is remembered of one protected object."""

    __slots__ = ("begun", "flagged", "found", "reference", "undo")

    def __init__(self, reference: Callable[[], Any]) -> None:
        self.reference = reference
        self.begun: dict[int, Any] = {}  # what it consisted of when last looked at, by id
        self.found: dict[int, finding.Found] = {}
        self.flagged: set[int] = set()  # by this protection, and by nobody before
        self.undo: list[Callable[[], object]] = []

    def flag(self, obj: object, at_fork: bool = False) -> None:
        """In children, what this has open is dead. At a fork nobody is asked who could be busy in another thread."""
        if isinstance(obj, int):
            found = finding.Found((obj,))
        else:
            found = finding.find(obj, self.found.get(id(obj), finding.Found()) if at_fork else None)
            self.found[id(obj)] = found
        for descriptor in found.descriptors:
            try:
                if not atfork.is_flagged(descriptor):
                    atfork.flag(descriptor)
                    self.flagged.add(descriptor)
            except OSError:  # closed meanwhile
                continue

    def look(self, obj: Any, at_fork: bool = False) -> None:
        """Flag what an object has open, and have it tell what it opens from now on, where it can."""
        adapter = adapter_of(obj)
        if adapter is not None and adapter.watch is not None and self.begun.get(id(obj), dead)() is not obj:
            self.undo.append(adapter.watch(obj, self.flag))
            self.begun[id(obj)] = weakref.ref(obj)
        if adapter is None:
            self.flag(obj, at_fork)
        elif adapter.connections is not None:
            for each in adapter.connections(obj):
                self.flag(each, at_fork)

    def end(self) -> None:
        for undo in self.undo:
            undo()
        for descriptor in self.flagged:
            atfork.unflag(descriptor)


def dead() -> None:
    """What a weak reference to nothing gives."""


_protected: dict[int, _Protection] = {}
_held_at_fork: list[set[int]] = []  # ids, of the forks under way; empty where no `before` hook could look
_watching = False


def protect(obj: T, *, verbose: bool = False) -> T:
    """Make an object that exists already usable in children; returns it.

    Takes standard locks, conditions, events, semaphores, barriers, queues and logging handlers; anything open with a
    fileno(); engines, pools, sessions, clients and event loops of known kinds; and any object that leads to some of
    these. On a class, as a decorator: each instance, once it is made. verbose: say on stderr what was found.
    Objects are held weakly. TypeError if there is nothing that could be done.
    """
    if isinstance(obj, type):
        _protect_instances(obj)
        return obj
    if adapter_of(obj) in (None, OPEN) and not _parts_of(obj) and not finding.find(obj).descriptors:
        raise TypeError(_nothing_to_do(obj))
    _remember(obj)
    if verbose:
        _explain(obj)
    return obj


def unprotect(obj: T) -> T:
    """Undo protect(obj); returns it. ValueError if it is not protected."""
    if not _is_protected(obj):
        raise ValueError(f"unprotect(): this {type(obj).__name__} is not protected")
    _protected.pop(id(obj)).end()
    return obj


def _is_protected(obj: Any) -> bool:
    protection = _protected.get(id(obj))
    return protection is not None and protection.reference() is obj


exempt_objects(_is_protected)


def _remember(obj: Any) -> None:
    global _watching
    key = id(obj)
    if _is_protected(obj):
        return
    try:
        protection = _Protection(weakref.ref(obj, lambda _: _protected.pop(key, None)))
    except TypeError:
        raise TypeError(
            f"protect(): a {type(obj).__name__} cannot be referred to weakly; add '__weakref__' to its __slots__, or "
            "protect the locks in it, and use close_on_fork() for what it has open"
        ) from None
    try:
        for each in _taken_apart(obj):
            protection.look(each)
    except BaseException:
        protection.end()
        raise
    _protected[key] = protection
    if not _watching:
        _watching = True
        register_at_fork(before=_look, after_in_parent=_forget_look, after_in_child=_reset_all)


def _protect_instances(cls: type) -> None:
    make = cls.__init__  # type: ignore[misc]
    if not cls.__weakrefoffset__:
        raise TypeError(
            f"protect(): instances of {cls.__name__} cannot be referred to weakly; add '__weakref__' to its __slots__"
        )

    @functools.wraps(make)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        _remember(self)

    cls.__init__ = __init__  # type: ignore[misc]


def _nothing_to_do(obj: Any) -> str:
    name = f"{type(obj).__module__}.{type(obj).__qualname__}"
    if name == "_queue.SimpleQueue":
        return (
            "protect(): a compiled queue.SimpleQueue keeps its lock where Python cannot reach it; make it after "
            "forksafe.install(), or use queue.Queue"
        )
    return (
        f"protect() knows nothing it could do for a {name}: it is no lock, condition, event, semaphore, barrier, "
        "queue or logging handler, has nothing open, and leads to nothing of the kind; register_adapter() and "
        "register_finder() teach it more"
    )


def _explain(obj: Any) -> None:
    name = f"{type(obj).__module__}.{type(obj).__qualname__}"
    lines = [f"forksafe: protect({name}):"]
    for each in _taken_apart(obj):
        adapter = adapter_of(each)
        if adapter is not None:
            does = [what for what in ("reset", "connections", "watch") if getattr(adapter, what) is not None]
            means = {
                "reset": "put right in children",
                "connections": "its connections dead there",
                "watch": "new ones too",
            }
            said = ", ".join(means[what] for what in does) or "needs nothing"
            lines.append(f"  a {type(each).__module__}.{type(each).__qualname__}: {said}")
    descriptors = sorted(_protected[id(obj)].flagged)
    lines.append(f"  descriptors that are dead in children: {descriptors or 'none now'}")
    found = finding.find(obj) if adapter_of(obj) is None else finding.Found()
    if found.cut_short:
        lines.append("  it leads to too many objects: not all were looked at")
    lines += [f"  not found: the descriptors of a {type(each).__qualname__}" for each in found.opaque]
    print("\n".join(lines), file=sys.stderr)


def _parts_of(obj: Any) -> Iterable[Any]:
    """What an object of no known kind leads to, and can be dealt with."""
    return [each for each in finding.reachable(obj) if each is not obj and adapter_of(each) is not None]


def _taken_apart(top: Any) -> list[Any]:
    """A protected object and what it consists of, parts first."""
    found: list[Any] = []
    seen: set[int] = set()

    def visit(obj: Any) -> None:
        if id(obj) in seen:
            return
        seen.add(id(obj))
        adapter = adapter_of(obj)
        parts = _parts_of(obj) if adapter is None else adapter.parts(obj) if adapter.parts else ()
        for each in parts:
            visit(each)
        found.append(obj)

    visit(top)
    return found


def _everything() -> list[tuple[_Protection, Any]]:
    """Every protected object and what it consists of, each once, parts first."""
    seen: set[int] = set()
    found = []
    for protection in list(_protected.values()):
        top = protection.reference()
        try:
            parts = _taken_apart(top) if top is not None else []
        except Exception as error:  # of an adapter: the others still have their turn
            atfork.write_unraisable(error, top)
            continue
        for obj in parts:
            if id(obj) not in seen:
                seen.add(id(obj))
                found.append((protection, obj))
    return found


def _is_held(obj: Any) -> bool:
    adapter = adapter_of(obj)
    return bool(adapter and adapter.held and adapter.held(obj))


def _look() -> None:
    held: set[int] = set()
    _held_at_fork.append(held)
    for protection, obj in _everything():
        try:
            protection.look(obj, at_fork=True)
            if _is_held(obj):
                held.add(id(obj))
        except Exception as error:
            atfork.write_unraisable(error, obj)


def _forget_look() -> None:
    if _held_at_fork:
        _held_at_fork.pop()


def _reset_all() -> None:
    seen = _held_at_fork[-1] if _held_at_fork else None
    _held_at_fork.clear()
    for protection, obj in _everything():
        protection.flagged.clear()  # tombstones now, whose numbers are the child's
        adapter = adapter_of(obj)
        try:
            held = _is_held(obj) if seen is None else id(obj) in seen
            if adapter is not None and adapter.reset is not None and not held:
                adapter.reset(obj)
        except Exception as error:
            atfork.write_unraisable(error, obj)
