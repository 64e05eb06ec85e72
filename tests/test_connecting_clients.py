"""install(connections=True) with clients of other libraries, against real servers: each process has its own connection."""

from __future__ import annotations

import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import succeeds
from servers import mariadb, postgres, redis_server  # noqa: F401
from test_connecting import ONLY_LOCKS, run

# HTTP. The server says over which of its connections it was asked.

LARGE = 4_000_000  # bytes; more than what the sockets of both ends hold


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.session = id(self)
        self.server.handlers.append(self)  # type: ignore[attr-defined]  # kept, so that the number stays its own

    def do_GET(self) -> None:
        body = b"x" * LARGE if self.path == "/large" else str(self.session).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def http_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.handlers = []  # type: ignore[attr-defined]
    server.handle_error = lambda *args: None  # type: ignore[method-assign]  # clients that go away
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join(10)


KEPT_ALIVE = {
    "http.client": """
        import http.client
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        def ask():
            try:
                connection.request("GET", "/who")
                return connection.getresponse().read()
            except (ConnectionError, http.client.HTTPException):
                connection.close()
                return ask()
    """,
    "requests": """
        requests = pytest.importorskip("requests")
        session = requests.Session()
        def ask():
            return session.get(f"http://127.0.0.1:{port}/who", timeout=10).content
    """,
    "urllib3": """
        urllib3 = pytest.importorskip("urllib3")
        pool = urllib3.PoolManager()
        def ask():
            return pool.request("GET", f"http://127.0.0.1:{port}/who", timeout=10).data
    """,
    "httpx": """
        httpx = pytest.importorskip("httpx")
        client = httpx.Client(trust_env=False)
        def ask():
            return client.get(f"http://127.0.0.1:{port}/who", timeout=10).content
    """,
}
ASKS_TWICE = """
import pytest
port = int(sys.argv[1])
{client}
parents = ask()
assert ask() == parents, "nothing is kept alive"
childs = in_child(lambda: (ask(), ask()))
assert ask() == parents and childs[0] == childs[1]
print("shared" if childs[0] == parents else "its own")
"""


@pytest.mark.parametrize("client", KEPT_ALIVE)
def test_http_connections_that_are_kept_alive(tmp_path, http_server, client):
    if client != "http.client":
        pytest.importorskip(client)
    text = ASKS_TWICE.format(client=textwrap.dedent(KEPT_ALIVE[client]))
    assert succeeds(run(tmp_path, text, http_server.server_port)) == "its own\n"
    assert succeeds(run(tmp_path, text, http_server.server_port, install=ONLY_LOCKS)) == "shared\n"


def test_an_answer_half_read_by_urllib(tmp_path, http_server):
    text = """
        import http.client, urllib.request
        def rest():
            try:
                return answer.read()
            except http.client.IncompleteRead as error:
                return error.partial
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        answer = opener.open(f"http://127.0.0.1:{sys.argv[1]}/large", timeout=10)
        read = answer.read(10)
        stolen = in_child(lambda: answer.read(2_000_000))
        read += rest()
        print(read == b"x" * 4_000_000, len(read) + len(stolen) == 4_000_000)
    """
    text = text.replace("stolen = in_child(lambda: answer.read(2_000_000))", "stolen = in_child(lambda: answer.fp.raw._sock.recv(1_000_000, socket.MSG_WAITALL))")  # noqa: E501
    assert succeeds(run(tmp_path, text, http_server.server_port)) == "True True\n"
    control = run(tmp_path, text, http_server.server_port, install=ONLY_LOCKS)
    assert control.returncode != 0 or control.stdout.startswith("False")
