"""protect() for objects of no known kind: what they lead to is protected, or what an adapter says."""

from __future__ import annotations

import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.hangs import assert_child_hangs


class Client:
    """An SDK client: a lock, a queue, and a connection inside something inside."""

    def __init__(self, address):
        import socket

        self.lock = threading.Lock()
        self.transports = {"main": [Transport(socket.create_connection(address))]}


class Transport:
    def __init__(self, sock):
        self.lock = threading.RLock()
        self.sock = sock


@pytest.fixture
def client(address):
    host, port = address.removeprefix("http://").strip("/").split(":")
    client = Client((host, int(port)))
    yield client
    client.transports["main"][0].sock.close()


def test_an_unknown_object_is_looked_through(client, busy, capsys):
    transport = client.transports["main"][0]
    assert forksafe.protect(client, verbose=True) is client
    said = capsys.readouterr().err
    assert "socket.socket: its connections are dead there" in said
    assert "_thread.lock: reset in children" in said
    assert f"dead in children: [{transport.sock.fileno()}]" in said
    busy(client.lock.acquire, client.lock.release)
    busy(transport.lock.acquire, transport.lock.release)

    def child():
        locks = client.lock.acquire(timeout=1), transport.lock.acquire(timeout=1)
        return locks, transport.sock.recv(1)

    assert run_in_child(child) == ((True, True), b"")


def test_control_an_unknown_object(client, busy):
    busy(client.lock.acquire, client.lock.release)
    assert_child_hangs(lambda: client.lock.acquire(), "test_unknown_types.py")


def test_adapter_by_name(client, registrations):
    name = f"{__name__}.Client"
    with pytest.raises(TypeError, match="takes a callable"):
        forksafe.register_adapter(name, connections=3)
    with pytest.raises(TypeError, match="its dotted name"):
        forksafe.register_adapter("Client")
    forksafe.register_adapter(name, connections=lambda obj: [obj.transports["main"][0].sock])
    forksafe.protect(client)
    assert run_in_child(lambda: client.transports["main"][0].sock.recv(1)) == b""
