"""find(): what hides its descriptors, TLS, asyncio and SQLite, checked against what the process has open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import ssl
from types import SimpleNamespace

import pytest

from forksafe.descriptors.search import Found, find
from support.programs import python
from support.search import descriptors, dies_in_a_child
from support.server_sessions import Client, connected_to
from support.threads import threads


def trusting():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def test_ssl_socket(tls_port):
    with trusting().wrap_socket(socket.create_connection(("127.0.0.1", tls_port), timeout=10)) as wrapped:

        def use():
            wrapped.sendall(b"text")
            assert wrapped.recv(10) == b"text"

        assert descriptors(SimpleNamespace(inner=[wrapped])) == {wrapped.fileno()} == connected_to(tls_port)
        dies_in_a_child(wrapped, use)


def test_ssl_object_over_renamed_socket(tls_port):
    """The socket was wrapped under another name."""
    raw = socket.create_connection(("127.0.0.1", tls_port), timeout=10)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    class Wrapped:
        def __init__(self):
            self.tls = trusting().wrap_bio(incoming, outgoing)
            self.transport = raw

    with raw:
        assert descriptors(Wrapped()) == {raw.fileno()}


def test_asyncio_streams_and_loops(session_server, tls_port):
    async def check(port, context):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        for value in (writer, reader, writer.transport, [writer], {"pair": (reader, writer)}):
            assert descriptors(value) == connected_to(port)
        assert connected_to(port)
        loop = asyncio.get_running_loop()
        inside = {loop._selector.fileno(), loop._ssock.fileno(), loop._csock.fileno()}
        assert descriptors(loop) == inside  # its epoll and its pipe to itself, not what runs on it
        assert find([loop]).descriptors == ()
        writer.close()
        await writer.wait_closed()

    for port, context in ((session_server.port, None), (tls_port, trusting())):
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(asyncio.wait_for(check(port, context), 20))
        finally:
            loop.close()
        assert find(loop) == Found()


def test_client_of_ones_own(session_server):
    client = Client(session_server.port)
    assert descriptors(client) == {client.sock.fileno()}
    dies_in_a_child(client, client.ask)
    client.close()
    assert find(client) == Found()


# SQLite


def test_sqlite(tmp_path):
    path = tmp_path / "data.db"
    connection = sqlite3.connect(path, timeout=0.5)
    connection.row_factory, connection.text_factory = sqlite3.Row, bytes
    assert descriptors(connection) == open_files(tmp_path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("ATTACH ? AS other", [str(tmp_path / "other.db")])
    connection.execute("CREATE TABLE other.u (a)")
    assert {name.name for name in open_files(tmp_path, names=True)} >= {
        "data.db",
        "data.db-wal",
        "data.db-shm",
        "other.db",
    }
    assert descriptors({"db": connection}) == open_files(tmp_path)
    assert not connection.in_transaction

    def use():
        connection.execute("INSERT INTO t VALUES (1)")
        connection.commit()

    dies_in_a_child(connection, use)
    connection.close()
    assert find(connection) == Found() and not open_files(tmp_path)
    assert find(sqlite3.connect(":memory:")) == Found()


def open_files(folder, names=False):
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{name}")
            if path.startswith(f"{folder}/"):
                found.add(type(folder)(path) if names else int(name))
    return found


test_sqlite = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")(test_sqlite)


def test_looking_keeps_sqlites_locks(tmp_path):
    """POSIX locks go when any descriptor of their file is closed, so looking must not open it."""
    path = tmp_path / "data.db"
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("CREATE TABLE t (a)")
    connection.execute("BEGIN EXCLUSIVE")

    def is_locked():
        query = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('SELECT * FROM t')"
        result = python("-c", query, str(path))  # not a child: SQLite knows there what its parent had locked
        assert result.returncode == 0 or "database is locked" in result.stderr, result.stderr
        return result.returncode != 0

    find(connection)
    assert is_locked()
    with path.open():  # the control
        pass
    assert not is_locked()
    connection.close()


def test_sqlite_of_another_thread(tmp_path):
    connection = sqlite3.connect(tmp_path / "data.db")
    found = []
    with threads(lambda: found.append((find(connection), find(connection, find(SimpleNamespace())))), 1):
        pass
    (asked, at_fork), *_ = found
    assert asked.opaque == (connection,) and asked.unknown
    assert at_fork == Found()
    known = find(connection)
    with threads(lambda: found.append(find(connection, known)), 1):
        pass
    assert found[-1].descriptors == known.descriptors  # by its files' names, without asking it
    connection.close()
