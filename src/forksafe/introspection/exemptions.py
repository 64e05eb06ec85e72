"""What detectors leave out because forksafe takes care of it. The modules that do so register it here.

Guarantees: registering costs one entry in a list or set, and imports nothing. A question runs none of the program's
code. Threads are held weakly.

Why that survives fork: what is registered stays so in children; a thread that vanished is in no list of threads there.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

from forksafe.introspection.static import mro_of, namespace_of

__all__ = ["exempt_objects", "exempt_thread", "is_exempt", "is_exempt_thread", "is_installed", "set_installed"]

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_predicates: list[Callable[[Any], bool]] = []
_installed = False


def exempt_thread(thread: threading.Thread) -> None:
    """A fork does no harm to what this thread does."""
    _threads.add(thread)


def is_exempt_thread(thread: threading.Thread) -> bool:
    return thread in _threads


def exempt_objects(predicate: Callable[[Any], bool]) -> None:
    """Objects for which the predicate is true are usable in children."""
    _predicates.append(predicate)


def is_exempt(obj: Any) -> bool:
    """Whether an object is of one of forksafe's types, or exempt by a predicate."""
    if any(namespace_of(cls).get("__module__") == "forksafe" for cls in mro_of(type(obj))):
        return True
    return any(predicate(obj) for predicate in _predicates)


def set_installed(installed: bool) -> None:
    """Called by install() and uninstall()."""
    global _installed
    _installed = installed


def is_installed() -> bool:
    """Whether install() is in force: children then repair half-made imports and the standard streams."""
    return _installed
