"""Connections that the program opens, flagged as they are opened: for install(connections=True).

Guarantees: every child has a tombstone over each connection that this program opens
  - by a Python socket that calls connect() or connect_ex(). The audit event precedes the call, so the socket is flagged
    before it is connected;
  - by psycopg, psycopg2 or mysqlclient. The sockets are libpq's and libmysqlclient's own: they are
    flagged when they have connected, and again before each fork, for they may have reconnected since.
An engine, pool, client or event loop in _hooks is protected as soon as it is made.

Left alone: datagram sockets (to share one is harmless, and statsd and syslog clients have nothing but one); what was
accepted, listens, or came from socketpair(), and pipes, so that prefork servers work; what multiprocessing connects
for itself, and a Client() of its own, which may be an argument of a forked Process; the sockets of logging.handlers,
which only write, and would lose the first record in the child.

Why that survives fork: the flags are in the C table, which children have too; in a child, and in its children, the
audit hook and the replaced classes stay.

Not covered: connections that C code makes, except those three drivers' (uvloop, gRPC, ODBC, mysql-connector's C
extension); instances of psycopg2's connection class made without psycopg2.connect(); a socket that one thread has made
and not yet connected when another forks: it is open in the child. keep_on_fork() is for programs that connect and let a
child have the connection: daemons, and clients that fork for each one.
"""

from __future__ import annotations

import _socket
import contextlib
import sys
from types import FrameType
from typing import Any

from forksafe.adapters.protect import protect
from forksafe.atfork.participants import Participants
from forksafe.descriptors import search
from forksafe.descriptors.close_on_fork import close_on_fork
from forksafe.introspection.audit_hooks import PROBE, add_audit_hook, answer
from forksafe.patching.instance_hooks import Hook, InstanceHooks
from forksafe_core import atfork

__all__ = ["WATCHED", "install", "uninstall"]

_STREAMS = (_socket.SOCK_STREAM, _socket.SOCK_SEQPACKET)
_fileno = _socket.socket.fileno
_type_of = _socket.socket.type.__get__

_LEFT_ALONE = {
    f"{package}.{where}"
    for package in ("multiprocessing", "multiprocess", "billiard")
    for where in ("connection.SocketClient", "forkserver.connect_to_new_process")
}
_NEAR = 4  # frames from connect(): a function between, and what gevent puts there

_on = False


def _forget(connection: object) -> None:
    """In a child: a connection of the parent's need not be flagged again."""
    _connections.discard(connection)


_connections = Participants(before=search.flag, after_in_child=_forget)  # of drivers


def install() -> None:
    """From now on, flag what the program connects. RuntimeError if an audit hook of the program's forbids another."""
    global _on
    if _on:
        return
    add_audit_hook(_audit, "install(connections=True)")
    _on = True
    _hooks.install()


def uninstall() -> None:
    """What is connected from now on is shared with children again; what is flagged stays flagged."""
    global _on
    _on = False
    _hooks.uninstall()
    _connections.clear()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """While nothing is installed it costs a comparison for each event."""
    if event == "socket.connect":
        if _on and args and issubclass(type(args[0]), _socket.socket):
            _connects(args[0], sys._getframe(1))
    elif event == PROBE:
        answer(_audit, args)


def _connects(sock: Any, frame: FrameType) -> None:
    descriptor = _fileno(sock)
    if descriptor < 0 or _type_of(sock) not in _STREAMS or _is_left_alone(frame):
        return
    try:
        certain = atfork.flag(descriptor)
    except OSError as error:
        if error.errno is None:  # not ours: a signal handler's, as TimeoutError may be
            raise
        return  # another thread has closed it, or there is no memory: connect() will say so
    if not certain:
        with contextlib.suppress(ValueError):
            close_on_fork(sock)  # it can tell when the socket has been closed


def _is_left_alone(caller: FrameType) -> bool:
    frame: FrameType | None = caller
    for _ in range(_NEAR):
        if frame is None:
            return False
        module = frame.f_globals.get("__name__")
        if module == "logging.handlers" or f"{module}.{frame.f_code.co_name}" in _LEFT_ALONE:
            return True
        frame = frame.f_back
    return False


def _connected(connection: Any) -> None:
    """A driver made this connection."""
    _connections.add(connection)
    found = search.flag(connection)
    if found.unknown:
        search.warn_unknown(connection, "forksafe run --connections", found, stacklevel=5)


_hooks = InstanceHooks((
    Hook("psycopg.connection", "BaseConnection", _connected),
    Hook("psycopg2", "_connect", _connected, "extensions.connection"),
    Hook("MySQLdb.connections", "Connection", _connected),
    Hook("asyncio.selector_events", "BaseSelectorEventLoop", protect),
    Hook("sqlalchemy.engine.base", "Engine", protect),
    Hook("psycopg_pool.pool", "ConnectionPool", protect),
    Hook("redis.connection", "ConnectionPool", protect),
    Hook("peewee", "Database", protect),
    Hook("urllib3.connectionpool", "HTTPConnectionPool", protect),
))  # fmt: skip

WATCHED = [
    "Python sockets that call connect(): streams, but multiprocessing's and logging's",
    *map(str, _hooks.hooks),
]
