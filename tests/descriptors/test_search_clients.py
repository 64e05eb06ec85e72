"""find(): the descriptors of other libraries' clients, connected to real servers."""

from __future__ import annotations

import asyncio
import http.server
import threading

import pytest

import forksafe
from forksafe.descriptors.search import Found, find
from support.search import descriptors, dies_in_a_child
from support.server_sessions import connected_to


@pytest.fixture
def web():
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_requests(web):
    requests = pytest.importorskip("requests")
    with requests.Session() as session:
        assert find(session) == Found()  # it has not connected: nothing is unknown
        assert session.get(f"http://127.0.0.1:{web}/").text == "ok"
        assert descriptors(session) == connected_to(web) != set()
    assert find(session) == Found()


def test_urllib3(web):
    urllib3 = pytest.importorskip("urllib3")
    manager = urllib3.PoolManager()
    assert find(manager) == Found()
    response = manager.request("GET", f"http://127.0.0.1:{web}/", preload_content=False)
    assert descriptors([manager, response]) == connected_to(web) != set()  # it is lent to the response
    response.read()
    response.release_conn()
    assert descriptors(manager) == connected_to(web) != set()
    manager.clear()


def test_httpx(web):
    httpx = pytest.importorskip("httpx")
    with httpx.Client(trust_env=False) as client:
        assert find(client) == Found()
        assert client.get(f"http://127.0.0.1:{web}/").text == "ok"
        assert descriptors(client) == connected_to(web) != set()


def test_httpx_async(web):
    httpx = pytest.importorskip("httpx")

    async def check():
        async with httpx.AsyncClient(trust_env=False) as client:
            assert find(client) == Found()
            assert (await client.get(f"http://127.0.0.1:{web}/")).text == "ok"
            assert descriptors(client) == connected_to(web) != set()

    asyncio.run(check())


@pytest.mark.parametrize("tls", [False, True])
def test_redis(redis_server, tls):
    redis = pytest.importorskip("redis")
    port = redis_server.tls_port if tls else redis_server.port
    arguments = redis_server.arguments(True) if tls else {"host": "127.0.0.1", "port": port}
    client = redis.Redis(**arguments)
    assert find(client) == Found()
    client.set("a", 1)
    assert descriptors(client) == connected_to(port) != set()
    connection = client.connection_pool.get_connection()
    client.set("a", 2)  # through another one, for that is lent
    assert descriptors(client) == connected_to(port) and len(connected_to(port)) == 2

    def use():
        connection.send_command("PING")
        assert connection.read_response() == b"PONG"

    dies_in_a_child(client, use)
    client.connection_pool.release(connection)
    client.close()
    assert find(client) == Found()


def test_redis_async(redis_server):
    asynchronous = pytest.importorskip("redis.asyncio")

    async def check():
        client = asynchronous.Redis(host="127.0.0.1", port=redis_server.port)
        assert find(client) == Found()
        await client.set("a", 1)
        assert descriptors(client) == connected_to(redis_server.port) != set()
        await client.aclose()

    asyncio.run(check())


@pytest.mark.parametrize("tls", [False, True])
def test_psycopg(postgres, tls):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres.dsn(tls), autocommit=True) as connection:
        assert descriptors(connection) == {connection.fileno()}
        assert descriptors(connection.pgconn) == {connection.fileno()}
        assert descriptors([connection.cursor()]) == {connection.fileno()}
        dies_in_a_child(connection, lambda: connection.execute("SELECT 1"))
    assert find(connection) == find(connection.pgconn) == Found()


def test_psycopg_async(postgres):
    psycopg = pytest.importorskip("psycopg")

    async def check():
        async with await psycopg.AsyncConnection.connect(postgres.dsn()) as connection:
            assert descriptors(connection) == {connection.fileno()}

    asyncio.run(check())


def test_psycopg_pool(postgres):
    psycopg_pool = pytest.importorskip("psycopg_pool")
    with psycopg_pool.ConnectionPool(postgres.dsn(), min_size=2, open=False) as pool:
        pool.wait(20)
        assert len(descriptors(pool)) == 2


@pytest.mark.parametrize("tls", [False, True])
def test_psycopg2(postgres, tls):
    psycopg2 = pytest.importorskip("psycopg2")
    connection = psycopg2.connect(postgres.dsn(tls))
    cursor = connection.cursor()
    assert descriptors(connection) == descriptors([cursor]) == {connection.fileno()}
    dies_in_a_child(connection, lambda: cursor.execute("SELECT 1"))
    connection.close()
    assert find(connection) == Found()


def test_sqlalchemy(postgres):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg2")
    engine = sqlalchemy.create_engine(postgres.url())
    assert find(engine) == Found()
    with engine.connect() as connection:
        number = connection.connection.dbapi_connection.fileno()
        assert descriptors(connection) == {number}
    assert descriptors(engine) == {number}
    engine.dispose()


@pytest.mark.parametrize("tls", [False, True])
def test_pymysql(mariadb, tls):
    pymysql = pytest.importorskip("pymysql")
    more = {"ssl": {"check_hostname": False}} if tls else {"ssl_disabled": True}
    connection = pymysql.connect(host="127.0.0.1", port=mariadb.port, user="root", database="test", **more)
    assert descriptors(connection) == connected_to(mariadb.port) == {connection._sock.fileno()}

    def use():
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")

    dies_in_a_child(connection, use)
    connection.close()
    assert find(connection) == Found()


def test_mysqlclient(mariadb):
    MySQLdb = pytest.importorskip("MySQLdb")
    connection = MySQLdb.connect(host="127.0.0.1", port=mariadb.port, user="root", database="test")
    if not hasattr(connection, "fileno"):
        pytest.skip("this mysqlclient has no fileno()")
    assert descriptors(connection) == descriptors([connection.cursor()]) == connected_to(mariadb.port) != set()
    dies_in_a_child(connection, lambda: connection.query("SELECT 1") or connection.store_result())
    connection.close()
    assert find(connection) == Found()


def test_mysqlclient_that_hides_its_descriptor(mariadb, monkeypatch, forget_finders):
    """As those before 2.2 do: then it is opaque, until somebody tells."""
    MySQLdb = pytest.importorskip("MySQLdb")
    connection = MySQLdb.connect(host="127.0.0.1", port=mariadb.port, user="root", database="test")

    class Hiding(type(connection)):
        fileno = None

    hiding = Hiding(host="127.0.0.1", port=mariadb.port, user="root", database="test")
    found = find([hiding])
    assert found.opaque == (hiding,) and found.unknown
    number = (connected_to(mariadb.port) - {connection.fileno()}).pop()
    forksafe.register_finder("MySQLdb.connections.Connection", lambda _: [number])
    assert descriptors([hiding]) == {number}
    hiding.close()
    connection.close()
