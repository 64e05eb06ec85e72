"""hazards(): files, sockets, epolls and event loops."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import sys
import tempfile
import threading

import pytest

import forksafe
from support.hazards import of


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the system does not tell")
def test_a_file_that_is_being_written():
    reader, writer = os.pipe()
    file = open(writer, "wb")
    thread = threading.Thread(target=lambda: (file.write(b"x" * 1_000_000), file.close()), name="writer", daemon=True)
    thread.start()
    while not select.select([reader], [], [], 10)[0] or not of("write"):
        pass
    (hazard,) = of("write")
    assert hazard.thread == "writer"
    assert f"descriptor {writer}" in hazard.what
    with open(reader, "rb") as rest:
        assert len(rest.read()) == 1_000_000
    thread.join(10)


def test_connections_and_listening_sockets():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0],
    ):
        port = server.getsockname()[1]
        (hazard,) = of("connection", what=f"descriptor {client.fileno()},")
        assert f"127.0.0.1:{port}" in hazard.what
        assert hazard.severity == "danger"
        (hazard,) = of("listener", what=f"127.0.0.1:{port}")
        assert hazard.severity == "note"
        forksafe.close_on_fork(client)
        assert of("connection", what=f"descriptor {client.fileno()},") == []
    assert of("connection", what=f":{port}") == []


def test_event_loops_and_epolls():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    while not loop.is_running():
        pass
    assert of("event loop", what="an event loop that is running")
    forksafe.protect(loop)
    assert of("event loop", what="an event loop that is running") == []
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
    if hasattr(select, "epoll"):
        with select.epoll() as epoll:
            assert of("event loop", what=f"descriptor {epoll.fileno()}, an epoll")


@pytest.mark.skipif(not os.path.exists("/proc/self/fdinfo"), reason="the system does not tell")
def test_locked_files():
    with tempfile.NamedTemporaryFile() as file:
        assert of("file lock", what=file.name) == []
        fcntl.flock(file, fcntl.LOCK_EX)
        (hazard,) = of("file lock", what=file.name)
        assert "FLOCK" in hazard.what
