"""What is known of other libraries' types: which hide their descriptors, connect late, or lead to others' objects.

Guarantees: everything is named by dotted name, so nothing is imported for it. A finder calls only what cannot wait,
connect or raise for long, and gives nothing for what is closed.

SQLite tells the names of a connection's files. Its files are then searched among those that this process has open, by
(st_dev, st_ino); they are not opened for that, since closing them again would drop SQLite's locks. So whatever else
has the same file open counts too. A connection may be busy in another thread at a fork, so then it is not called again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["FINDERS", "LATE", "NEVER_INTO", "NOT_AT_FORK", "ONLY_AS_VALUE", "OPAQUE", "File", "locked", "open_on"]


class File:
    """A file's name: whatever descriptors this process has open on it count."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path


def _in_event_loop(loop: Any) -> list[object]:
    own = vars(loop)
    return [own.get(name) for name in ("_selector", "_ssock", "_csock")]


def _in_libpq(pgconn: Any) -> list[object]:
    return [pgconn.socket] if pgconn.status == 0 else []  # ConnStatus.OK


def _in_thread_local(values: Any) -> list[object]:
    return [vars(values)]  # of this thread


def _in_sqlite(connection: Any) -> list[object]:
    sqlite3 = sys.modules["sqlite3"]
    cursor = sqlite3.Cursor(connection)
    cursor.row_factory = None
    try:
        rows = cursor.execute("PRAGMA database_list").fetchall()
    except sqlite3.ProgrammingError as error:
        if "closed" in str(error):
            return []
        raise  # another thread's
    paths = [os.fsdecode(row[2]) for row in rows if row[2]]  # none: in memory
    return [File(path + more) for path in paths for more in ("", "-wal", "-shm", "-journal")]


def open_on(paths: Iterable[str]) -> Iterator[int]:
    """This process's descriptors that are open on any of these files."""
    files = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        files.add((status.st_dev, status.st_ino))
    if not files:
        return
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        try:
            status = os.fstat(int(name))
        except (OSError, ValueError):
            continue
        if (status.st_dev, status.st_ino) in files:
            yield int(name)


def locked(paths: Iterable[str]) -> set[str]:
    """Those of SQLite's databases, among these files, on which it holds locks longer than a statement takes."""
    marks = [path for path in paths if path.endswith(("-shm", "-journal")) and os.path.exists(path)]
    return {path.rpartition("-")[0] for path in marks}


FINDERS = {
    "asyncio.base_events.BaseEventLoop": _in_event_loop,
    "psycopg.pq.pq_ctypes.PGconn": _in_libpq,
    "psycopg_binary.pq.PGconn": _in_libpq,
    "psycopg_c.pq.PGconn": _in_libpq,
    "sqlite3.Connection": _in_sqlite,
    "_thread._local": _in_thread_local,
    "forksafe_core._local.local": _in_thread_local,
}
NOT_AT_FORK = {"sqlite3.Connection"}

NEVER_INTO = {
    "concurrent.futures._base.Executor", "logging.Filterer", "logging.Manager", "selectors.BaseSelector",
    "threading.Thread",
}  # fmt: skip
ONLY_AS_VALUE = {"asyncio.events.AbstractEventLoop"}

# Connections written in C that have no close(), by which others are known.
OPAQUE = {"_mysql_connector.MySQL", "cimpl.Producer", "confluent_kafka.cimpl.Producer"}

# These connect when they are first used: when nothing is found in them, nothing is open.
LATE = {
    "aiohttp.client.ClientSession", "boto3.session.Session", "botocore.client.BaseClient", "ftplib.FTP",
    "http.client.HTTPConnection", "httpx._client.BaseClient", "httpx._transports.base.AsyncBaseTransport",
    "httpx._transports.base.BaseTransport", "imaplib.IMAP4", "peewee.Database", "psycopg2.pool.AbstractConnectionPool",
    "psycopg_pool.base.BasePool", "pymongo.mongo_client.MongoClient", "pymongo.synchronous.mongo_client.MongoClient",
    "pymysql.connections.Connection", "redis.asyncio.client.Redis", "redis.asyncio.connection.AbstractConnection",
    "redis.asyncio.connection.ConnectionPool", "redis.client.Redis", "redis.cluster.RedisCluster",
    "redis.connection.AbstractConnection", "redis.connection.ConnectionPool", "requests.sessions.Session",
    "smtplib.SMTP", "sqlalchemy.engine.base.Engine", "sqlalchemy.ext.asyncio.engine.AsyncEngine",
    "sqlalchemy.orm.session.Session", "sqlalchemy.pool.base.Pool", "urllib.request.OpenerDirector",
    "urllib3.connectionpool.ConnectionPool", "urllib3.poolmanager.PoolManager", "xmlrpc.client.ServerProxy",
}  # fmt: skip
