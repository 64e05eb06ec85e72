"""install(connections=True) with others' clients, against real servers: each process has its own connection."""

from __future__ import annotations

import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from support.connections import ONLY_LOCKS, run
from support.programs import succeeds

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
def test_http_keep_alive(tmp_path, http_server, client):
    if client != "http.client":
        pytest.importorskip(client)
    text = ASKS_TWICE.format(client=textwrap.dedent(KEPT_ALIVE[client]))
    assert succeeds(run(tmp_path, text, http_server.server_port)) == "its own\n"
    assert succeeds(run(tmp_path, text, http_server.server_port, install=ONLY_LOCKS)) == "shared\n"


SLOTS = """
import threading, urllib3
port = int(sys.argv[1])
pool = urllib3.HTTPConnectionPool("127.0.0.1", port, maxsize=1, block=True, timeout=10)
checked_out, done = threading.Event(), threading.Event()
def hold():
    response = pool.request("GET", "/large", preload_content=False)
    checked_out.set()
    done.wait(60)
    response.read()
    response.release_conn()
thread = threading.Thread(target=hold, daemon=True); thread.start()
assert checked_out.wait(20)
def child():
    for _ in range(2):
        assert pool.request("GET", "/who").status == 200
run_in_child(child, timeout=float(sys.argv[2]))
run_in_child(lambda: run_in_child(child, timeout=10), timeout=20)
done.set(); thread.join(20)
mine = pool.request("GET", "/large", preload_content=False)
def child():
    try:
        mine.read()
    except urllib3.exceptions.HTTPError:
        pass
    mine.release_conn()
    assert pool.request("GET", "/who").status == 200
run_in_child(child, timeout=10)
assert len(mine.read()) == 4_000_000
assert pool.request("GET", "/who").status == 200
"""


def test_blocking_pool_checked_out(tmp_path, http_server):
    """By a thread that vanishes; then by the one that forks, which gives it back in the child."""
    pytest.importorskip("urllib3")
    succeeds(run(tmp_path, SLOTS, http_server.server_port, 10, timeout=60))
    assert "ChildTimeout" in run(tmp_path, SLOTS, http_server.server_port, 1, install=ONLY_LOCKS, timeout=60).stderr


def test_an_answer_half_read_by_urllib(tmp_path, http_server):
    """What a child reads of it is missing in the parent."""
    text = """
        import http.client, urllib.request
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        answer = opener.open(f"http://127.0.0.1:{sys.argv[1]}/large", timeout=10)
        first = answer.read(10)
        def child():
            try:
                return len(answer.read(2_000_000))
            except http.client.IncompleteRead as error:
                return len(error.partial)
        in_child(child)
        def rest():
            try:
                return len(answer.read())
            except http.client.IncompleteRead as error:
                return len(error.partial)
        print(len(first) + rest() == 4_000_000)
    """
    assert succeeds(run(tmp_path, text, http_server.server_port)) == "True\n"
    assert succeeds(run(tmp_path, text, http_server.server_port, install=ONLY_LOCKS)) == "False\n"


# Drivers: what a child says goodbye to, or queries, is not its parent's.

DRIVERS = {
    "psycopg2": "postgres", "psycopg": "postgres", "MySQLdb": "mariadb", "pymysql": "mariadb", "redis": "redis_server"
}  # fmt: skip
HAVE = """
from support.drivers import DRIVERS
from support.server_addresses import MariaDB, Postgres, Redis
server = {server!r}
"""
CLOSES = """
driver = DRIVERS[sys.argv[1]](server, tls=sys.argv[2] == "tls")
connection = driver.connect()
session = driver.session(connection)
assert atfork.is_flagged(driver.descriptor(connection)) or not forksafe.patching.install.report().connections
def child():
    try:
        driver.begin(connection, "a child's")
    except Exception:
        pass
    try:
        driver.close(connection)
    except Exception:
        pass
    own = driver.connect()
    assert atfork.is_flagged(driver.descriptor(own)) or not forksafe.patching.install.report().connections
    return driver.session(own)
childs = in_child(child, FORKS[sys.argv[3]])
assert driver.session(connection) == session != childs
"""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("driver", DRIVERS)
def test_drivers(tmp_path, request, driver, tls):
    pytest.importorskip(driver)
    server = request.getfixturevalue(DRIVERS[driver])
    text = HAVE.format(server=server) + CLOSES
    arguments = (driver, "tls" if tls else "plain", "os.fork")
    succeeds(run(tmp_path, text, *arguments))
    if driver != "redis":  # whose client connects anew and says nothing
        assert run(tmp_path, text, *arguments, install=ONLY_LOCKS).returncode == 1


def test_drivers_and_every_way_to_fork(tmp_path, postgres, fork_name):
    for driver in ("psycopg2", "psycopg"):
        pytest.importorskip(driver)
        succeeds(run(tmp_path, HAVE.format(server=postgres) + CLOSES, driver, "plain", fork_name))


@pytest.mark.parametrize("order", ["imported before", "imported later", "both", "connected before"])
@pytest.mark.parametrize("driver", ["psycopg2", "psycopg", "MySQLdb"])
def test_order_of_import_and_install(tmp_path, request, driver, order):
    pytest.importorskip(driver)
    server = request.getfixturevalue(DRIVERS[driver])
    text = (
        HAVE.format(server=server)
        + """
driver = DRIVERS[sys.argv[1]](server, False)
if sys.argv[2] in ("imported before", "both"):
    __import__(sys.argv[1])
if sys.argv[2] == "connected before":
    connection = driver.connect()
names = set(sys.modules)
forksafe.install()
forksafe.install(connections=True)
libraries = {"MySQLdb", "asyncio", "peewee", "psycopg", "psycopg2", "psycopg_pool", "redis", "sqlalchemy"}
assert not libraries & (set(sys.modules) - names), "it imports them"
if sys.argv[2] == "both":
    import importlib
    importlib.reload(sys.modules[sys.argv[1]])
    forksafe.uninstall()
    forksafe.install(connections=True)
if sys.argv[2] != "connected before":
    connection = driver.connect()
assert atfork.flagged() == [driver.descriptor(connection)]
forksafe.uninstall()
assert not atfork.is_flagged(driver.descriptor(driver.connect()))
"""
    )
    succeeds(run(tmp_path, text, driver, order, install="import forksafe\n"))


def test_drivers_signatures(tmp_path):
    for name in ("psycopg", "psycopg2", "MySQLdb"):
        pytest.importorskip(name)
    text = """
        import inspect, pickle
        def look():
            import psycopg, psycopg2, MySQLdb, MySQLdb.connections
            return [
                psycopg.connect == psycopg.Connection.connect, psycopg2.connect.__code__.co_name,
                inspect.signature(psycopg.Connection), inspect.signature(MySQLdb.connections.Connection.__init__),
                inspect.signature(psycopg2.connect), MySQLdb.connect is MySQLdb.Connect, psycopg2._connect.__name__,
                psycopg.Connection.__init__.__qualname__, MySQLdb.connections.Connection.__doc__,
                type(psycopg.__spec__.loader), type(psycopg.connection.__loader__), pickle.dumps(psycopg.Connection),
                psycopg.connection.__spec__, vars(psycopg.connection.__loader__),
            ]
        installed = [str(each) for each in look()]
        forksafe.uninstall()
        for name in [name for name in sys.modules if name.partition(".")[0] in ("psycopg", "psycopg2", "MySQLdb")]:
            del sys.modules[name]
        without = [str(each) for each in look()]
        import re
        strip = lambda texts: [re.sub("0x[0-9a-f]+", "", text) for text in texts]
        assert strip(installed) == strip(without), [pair for pair in zip(installed, without) if pair[0] != pair[1]]
    """
    succeeds(run(tmp_path, text))


def test_subclasses_and_async(tmp_path, postgres):
    pytest.importorskip("psycopg"), pytest.importorskip("psycopg2")
    text = (
        HAVE.format(server=postgres)
        + """
import asyncio, psycopg, psycopg2, psycopg2.extensions, psycopg2.extras, psycopg2.pool, select
class Mine(psycopg.Connection): pass
class Other(psycopg2.extensions.connection): pass
def is_flagged(connection):
    return atfork.is_flagged(connection.fileno())
mine = Mine.connect(server.dsn())
other = psycopg2.connect(server.dsn(), connection_factory=Other, cursor_factory=psycopg2.extras.DictCursor)
assert type(mine) is Mine and type(other) is Other and is_flagged(mine) and is_flagged(other)
pool = psycopg2.pool.ThreadedConnectionPool(1, 2, server.dsn())
assert is_flagged(pool.getconn())
later = psycopg2.connect(server.dsn(), async_=1)
while (state := later.poll()) != psycopg2.extensions.POLL_OK:
    select.select([later] * (state == 1), [later] * (state == 2), [], 10)
assert is_flagged(later)
async def main():
    async with await psycopg.AsyncConnection.connect(server.dsn()) as connection:
        assert is_flagged(connection) and isinstance(connection, psycopg.AsyncConnection)
asyncio.run(main())
try:
    psycopg.connect("host=/nowhere")
except psycopg.OperationalError:
    pass
else:
    raise AssertionError
"""
    )
    succeeds(run(tmp_path, text))


def test_connection_made_anew(tmp_path, mariadb):
    """mysqlclient reconnects inside ping(): its new socket is sought before each fork."""
    pytest.importorskip("MySQLdb")
    text = (
        HAVE.format(server=mariadb)
        + """
driver = DRIVERS["MySQLdb"](server, False)
connection, other = driver.connect(), driver.connect()
session = driver.session(connection)
driver.execute(other, f"KILL {session}")
connection.ping(True)
again = driver.session(connection)
assert again != session
in_child(lambda: driver.close(connection))
assert driver.session(connection) == again
"""
    )
    succeeds(run(tmp_path, text))
