"""What is measured: threading, forksafe, and other fork-safe locks where they are installed.

Contract: provider(name) gives the makers of that provider's objects, or raises Absent with the reason to show. A peer
with changed names is absent, not an error: its makers are tried once, in a `with` statement.

fastrlock   a fast RLock; says nothing about fork, so it is here for its speed
pymongo     threading.Lock, kept in a WeakSet so that a child can reset it
ddtrace     a proxy around threading's, kept in a WeakSet and replaced in a child
"""

from __future__ import annotations

import _thread
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from typing import Any

Maker = Callable[[], Any]

BASELINE = "threading"
SUBJECT = "forksafe"


class Absent(Exception):
    """A peer that cannot be measured here; its text says why."""


@dataclass(frozen=True)
class Provider:
    name: str
    description: str
    makers: Mapping[str, Maker]


def _from_threading() -> dict[str, Maker]:
    return _all_of(threading)


def _from_forksafe() -> dict[str, Maker]:
    import forksafe

    return _all_of(forksafe)


def _all_of(module: Any) -> dict[str, Maker]:
    simple = {name: getattr(module, name) for name in ("Lock", "RLock", "Condition", "Event")}
    return {**simple, **{name: partial(getattr(module, name), 1) for name in ("Semaphore", "BoundedSemaphore")}}


def _from_fastrlock() -> dict[str, Maker]:
    return {"RLock": import_module("fastrlock.rlock").FastRLock}


def _from_pymongo() -> dict[str, Maker]:
    module = import_module("pymongo.lock")
    module._forkable_locks, module._release_locks  # noqa: B018 - without these it is not the way meant here
    return {"Lock": module._create_lock}


def _from_ddtrace() -> dict[str, Maker]:
    os.environ.setdefault("DD_INSTRUMENTATION_TELEMETRY_ENABLED", "false")  # a benchmark is no service
    for name in ("ddtrace.internal.threads", "ddtrace.internal.forksafe"):  # newer versions first
        try:
            module = import_module(name)
        except ModuleNotFoundError:
            continue
        if getattr(module, "Lock", _thread.allocate_lock) not in (_thread.allocate_lock, threading.Lock):
            return {"Lock": module.Lock, "RLock": module.RLock}
    raise ImportError("no ddtrace lock of its own")


_SOURCES: dict[str, Callable[[], dict[str, Maker]]] = {
    BASELINE: _from_threading,
    SUBJECT: _from_forksafe,
    "fastrlock": _from_fastrlock,
    "pymongo": _from_pymongo,
    "ddtrace": _from_ddtrace,
}
PEERS = tuple(name for name in _SOURCES if name not in (BASELINE, SUBJECT))


def provider(name: str) -> Provider:
    """Its makers by kind: "Lock", "RLock" and so on. Absent if there is no such provider here."""
    try:
        description = name if name in (BASELINE, SUBJECT) else f"{name} {metadata.version(name)}"
    except metadata.PackageNotFoundError:
        raise Absent(f"{name} not installed") from None
    try:
        makers = _SOURCES[name]()
        for make in makers.values() if name in PEERS else ():
            with make():
                pass
    except Exception as error:  # another project's internals: if they changed, the rest is still measured
        raise Absent(f"{description} not measured ({type(error).__name__}: {error})") from error
    return Provider(name, description, makers)


def providers() -> tuple[list[Provider], str]:
    """threading, forksafe and the peers there are; and a line that says which peers those are."""
    found = [provider(BASELINE), provider(SUBJECT)]
    said = []
    for name in PEERS:
        try:
            found.append(provider(name))
            said.append(found[-1].description)
        except Absent as reason:
            said.append(str(reason))
    return found, "peers: " + ", ".join(said)
