"""Hazards that are descriptors: connections, listening sockets, epolls and locked files that a child would share.

Guarantees: what forksafe has flagged is no hazard. Only addresses are reported, never what is sent. A socket is looked
at through a duplicate of its descriptor, which is closed again.

Not covered: systems other than Linux, which do not list a process's descriptors.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Any

from forksafe.diagnostics.hazard import Finders, Hazard
from forksafe_core import atfork

__all__ = ["FINDERS"]

_PORTS = {5432: "PostgreSQL", 3306: "MySQL", 6379: "Redis", 27017: "MongoDB", 5672: "AMQP", 9092: "Kafka",
          11211: "memcached", 443: "HTTPS", 80: "HTTP"}  # fmt: skip
_CONNECTION = (
    "use forksafe.protect() on the client, pool or engine, forksafe.resource on what connects, close_on_fork() on the "
    "socket, or forksafe run --connections"
)


def _open_descriptors() -> list[int]:
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isdigit() and not atfork.is_flagged(int(name)))


def _kind_of(descriptor: int) -> str:
    """ "socket", a regular file's path, or what the system calls an object that is no file; "" for all else."""
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode):
            return "socket"
        return os.readlink(f"/proc/self/fd/{descriptor}") if stat.S_IFMT(mode) in (0, stat.S_IFREG) else ""
    except OSError:
        return ""


def _descriptors() -> Iterable[Hazard]:
    for descriptor in _open_descriptors():
        kind = _kind_of(descriptor)
        if kind == "socket":
            yield from _socket(descriptor)
        elif kind.startswith("anon_inode:[eventpoll]"):
            yield Hazard(
                "event loop",
                "warning",
                f"descriptor {descriptor}, an epoll",
                "shared: a child that registers or unregisters with it changes what its parent waits for",
                "forksafe.protect() the event loop, or close_on_fork() the selector",
            )
        elif kind.startswith("/"):
            yield from _locked_file(descriptor, kind)


def _socket(descriptor: int) -> Iterable[Hazard]:
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        family = {socket.AF_INET: "TCP", socket.AF_INET6: "TCP", socket.AF_UNIX: "unix"}.get(sock.family)
        if family is None or sock.type != socket.SOCK_STREAM:
            return
        here = _text_of(_address(sock.getsockname))
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            yield Hazard(
                "listener",
                "note",
                f"descriptor {descriptor} listens at {family} {here}",
                "shared: the port stays in use while any child lives, and children can accept the parent's connections",
                "close_on_fork() it, unless children are there to accept",
            )
            return
        address = _address(sock.getpeername)
        peer = _text_of(address)
        if not peer:
            return
        if family == "unix" and peer == here == "(unnamed)":
            return  # a pair: how processes talk to their children
        service = _PORTS.get(address[1]) if isinstance(address, tuple) else None
        yield Hazard(
            "connection",
            "danger",
            f"descriptor {descriptor}, {family} {here} to {peer}" + (f" ({service})" if service else ""),
            "shared: what a child sends counts as the parent's, and the child's exit may end the parent's session",
            _CONNECTION,
        )


def _address(call: Callable[[], Any]) -> Any:
    """What getsockname() or getpeername() returns; None if there is no address."""
    try:
        return call()
    except OSError:
        return None


def _text_of(address: Any) -> str:
    if address is None:
        return ""
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    if isinstance(address, bytes):
        return "@" + address.rstrip(b"\0").lstrip(b"\0").decode("ascii", "replace")
    return address or "(unnamed)"


def _locked_file(descriptor: int, path: str) -> Iterable[Hazard]:
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as file:
            locks = [line.split()[2] for line in file if line.startswith("lock:")]
    except (OSError, IndexError):
        return
    for lock in locks:
        yield Hazard(
            "file lock",
            "warning",
            f"descriptor {descriptor} ({path}), locked by {lock}",
            "a child that unlocks or closes it in the wrong way frees the parent's lock (flock), or does not have it "
            "(fcntl)",
            "close_on_fork() it, or take the lock anew in the child",
        )


FINDERS: Finders = {_descriptors: ("connection", "listener", "event loop", "file lock")}
