"""What the adapters of several libraries have in common.

Guarantees: nothing here imports a library. What belongs to the parent is kept alive for good: none of it is closed,
finalised or woken in a child.
"""

from __future__ import annotations

import contextlib
import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from forksafe.adapters.registry import Flag
from forksafe.atfork.child_exit import run_due_hooks_at_exit
from forksafe.errors import InheritedConnectionError
from forksafe.locks import Lock
from forksafe_core import atfork

__all__ = [
    "DeadConnection", "before_first_call", "drained", "has_descriptors", "ignore_in_putconn", "instances_of",
    "keep_attributes", "note_alive", "part", "settle_at_exit", "was_alive", "watch_method",
]  # fmt: skip


def part(*names: str) -> Callable[[Any], list[Any]]:
    """parts= for objects that have them in these attributes."""
    return lambda obj: [getattr(obj, name) for name in names if getattr(obj, name, None) is not None]


def drained(items: Any) -> list[Any]:
    """Take all items out of a queue. For a child: no other thread puts or gets."""
    taken = []
    with contextlib.suppress(queue.Empty):
        while True:
            taken.append(items.get_nowait())
    return taken


def keep_attributes(obj: Any) -> dict[str, Any]:
    """In a child: the attributes of an inherited object as they are now. They are never freed."""
    inherited = dict(vars(obj))
    atfork.keep_alive(inherited)
    return inherited


def instances_of(cls: type, attribute: str, owner: Any) -> list[Any]:
    """The instances of a class that refer to their owner, wherever they are: also on other threads' stacks.

    It searches all objects. isinstance() would run the code of lazy proxies.
    """
    found = [obj for obj in gc.get_objects() if issubclass(type(obj), cls)]
    return [obj for obj in found if getattr(obj, attribute, None) is owner]


def has_descriptors(connection: object) -> bool:
    """False for a connection to something in this process, such as a SQLite database in memory."""
    from forksafe.descriptors.search import find

    found = find(connection)
    return bool(found.descriptors or found.files or found.unknown)


class DeadConnection:
    """Replaces a connection of the parent's: to give it back or close it does nothing, to use it is an error."""

    closed = True

    def rollback(self, *args: object, **kwargs: object) -> None:
        """Nothing: the transaction is the parent's."""

    close = terminate = rollback

    def __getattr__(self, name: str) -> Any:
        raise InheritedConnectionError(
            f"this connection was checked out before the fork and belongs to the parent: no {name} in a child. "
            "Check out one of the child's own"
        )


# Methods of one object, replaced by attributes of the same name.


def watch_method(obj: Any, name: str, flag: Flag) -> Callable[[], object]:
    """Call flag() with whatever obj.name() returns from now on; returns what undoes it."""
    original = getattr(obj, name)

    def method(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        flag(made)
        return made

    setattr(obj, name, method)
    alive, ours = weakref.ref(obj), weakref.ref(method)  # undo() keeps neither

    def undo() -> None:
        owner = alive()
        if owner is not None and vars(owner).get(name) is ours():
            delattr(owner, name)

    return undo


def before_first_call(obj: Any, name: str, prepare: Callable[[Any], object]) -> None:
    """In a child: the first call of obj.name() calls prepare(obj) first. Other threads' calls wait for that."""
    lock, alive = Lock(), weakref.ref(obj)

    def method(*args: Any, **kwargs: Any) -> Any:
        owner: Any = alive()
        with lock:
            if vars(owner).get(name) is method:
                prepare(owner)
                delattr(owner, name)
        return getattr(owner, name)(*args, **kwargs)

    setattr(obj, name, method)


def ignore_in_putconn(pool: Any, connections: Iterable[Any]) -> None:
    """In a child: pool.putconn() ignores these connections, which are the parent's, and those of earlier calls.

    A `with pool.connection()` that was open at the fork gives one back.
    """
    connections = list(connections)
    atfork.keep_alive(connections)  # so that no other gets the id of one
    inherited: set[int] = vars(pool).setdefault("_forksafe_inherited", set())
    inherited.update(map(id, connections))

    def putconn(conn: Any, *args: Any, **kwargs: Any) -> None:
        if id(conn) not in inherited:
            type(pool).putconn(pool, conn, *args, **kwargs)

    pool.putconn = putconn


# Threads that an object owns. Only before the fork, or after one by C, can it be told whether one was alive.


def note_alive(obj: Any, thread: threading.Thread | None) -> None:
    vars(obj)["_forksafe_alive"] = thread is not None and thread.is_alive()


def was_alive(obj: Any, default: bool) -> bool:
    """What note_alive() noted at the fork; the default if it was not called."""
    return bool(vars(obj).pop("_forksafe_alive", default))


def settle_at_exit(*_: object) -> Callable[[], object]:
    """watch= for objects of a module that waits for its workers at exit.

    A child of a fork that ran no hooks runs them at its exit at the latest, before the module's exit functions.
    """
    run_due_hooks_at_exit()
    return lambda: None
