"""Fixtures that the tests of find() share."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest

from forksafe.descriptors import type_plans
from support.servers import make_certificate


@pytest.fixture
def forget_finders():
    before = dict(type_plans._finders)
    yield
    type_plans._finders.clear()
    type_plans._finders.update(before)
    type_plans._plans.clear()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    make_certificate(str(folder))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return context


@pytest.fixture
def tls_port(certificate):
    """A TLS server that echoes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=echo, args=(connection,), daemon=True).start()

    def echo(connection):
        with contextlib.suppress(OSError), certificate.wrap_socket(connection, server_side=True) as wrapped:
            while data := wrapped.recv(1000):
                wrapped.sendall(data)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)
