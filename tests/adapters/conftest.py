"""Fixtures that the tests of protect() with real servers share."""

from __future__ import annotations

import subprocess
import sys
import weakref

import pytest

from forksafe.adapters import registry


@pytest.fixture
def registrations(monkeypatch):
    """What the test registers is forgotten after it."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "_by_type", weakref.WeakKeyDictionary())


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request):
    return request.param


ECHO = """
import http.server

class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"{self.client_address[1]} {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def address():
    """A process of its own: threads that want the GIL just then endanger the child of a fork made by C."""
    with subprocess.Popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/"
        finally:
            process.kill()
