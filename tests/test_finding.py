"""find(): the descriptors of a value, of each kind of connection; checked against what the process has open."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import http.server
import logging
import multiprocessing
import os
import queue
import select
import selectors
import socket
import sqlite3
import ssl
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest
from conftest import python, succeeds, threads
from servers import make_certificate
from sessions import Client, connected_to, serving

import forksafe
from forksafe import finding
from forksafe.finding import Found, find, flag, warn_unknown
from forksafe.testing import run_in_child
from forksafe_core import atfork


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def pair():
    pair = socket.socketpair()
    yield pair
    for each in pair:
        each.close()


@pytest.fixture
def forget_finders():
    before = dict(finding._finders)
    yield
    finding._finders.clear()
    finding._finders.update(before)
    finding._plans.clear()


def descriptors(value):
    found = find(value)
    assert not found.opaque and not found.unknown and not found.cut_short, found
    return set(found.descriptors)


def dies_in_a_child(value, use):
    """Flag the value; then whatever a child does with it ends in an error, and the parent's still works."""
    flagged = flag(value)

    def child():
        assert not any(atfork.is_flagged(each) for each in flagged.descriptors)
        try:
            use()
        except Exception as error:
            return type(error).__name__
        return "it can be used"

    assert run_in_child(child, 20) != "it can be used"
    use()


# The standard library


def test_sockets_files_pipes_and_selectors(pair, tmp_path):
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "w") as writer, (tmp_path / "file").open("w") as file:
        assert find(pair[0]).descriptors == (pair[0].fileno(),)
        assert [find(each).descriptors for each in (reader, writer, file)] == [(read,), (write,), (file.fileno(),)]
    here, there = multiprocessing.Pipe()
    with here, there, selectors.DefaultSelector() as selector:
        assert descriptors([here, there]) == {here.fileno(), there.fileno()}
        selector.register(pair[0], selectors.EVENT_READ)
        if hasattr(selector, "fileno"):
            assert find(selector).descriptors == (selector.fileno(),)
    with selectors.SelectSelector() as selector:
        selector.register(pair[0], selectors.EVENT_READ)
        assert find(selector).descriptors == ()  # what is registered there is others'


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")
def test_epoll():
    with select.epoll() as epoll:
        assert find(epoll).descriptors == (epoll.fileno(),)


def test_what_is_closed_gives_nothing(pair, tmp_path):
    pair[0].close()
    with (tmp_path / "file").open("w") as file:
        pass
    selector = selectors.DefaultSelector()
    selector.close()
    for value in (pair[0], file, selector, [pair[0], file]):
        assert find(value) == Found()


def test_inside_of_containers_attributes_and_slots(pair):
    class Slotted:
        __slots__ = ("other", "unset")

    class Below(Slotted):
        pass

    holder = Below()
    holder.other = holder.dict = {"a": (1, [{pair[0]}, frozenset([pair[1]])])}
    numbers = {each.fileno() for each in pair}
    line = queue.LifoQueue()
    line.put(pair[0])
    for value in (
        holder, [holder], collections.deque(pair), {pair[0]: 1, "b": pair[1]}, SimpleNamespace(a=pair),
        collections.OrderedDict(a=pair[0], b=pair[1]), selectors.SelectorKey(pair[0], 0, 0, pair[1]),
        [line, pair[1]], collections.defaultdict(list, x=list(pair)),
    ):  # fmt: skip
        assert descriptors(value) == numbers
    local, ours = threading.local(), forksafe.local()
    local.sock, ours.sock = pair
    assert descriptors([local, ours]) == numbers


def test_nearest_first_and_each_once(pair):
    assert find([{"deep": [pair[0]]}, pair[1], pair[1]]).descriptors == (pair[1].fileno(), pair[0].fileno())


def test_what_is_others_is_not_walked(pair):
    handler = logging.StreamHandler(pair[0].makefile("w"))
    thread = threading.Thread(target=print, args=pair)
    holder = SimpleNamespace(
        handler=handler, logger=logging.getLogger("x"), thread=thread, weak=weakref.ref(pair[0]), module=socket,
        function=lambda: pair, method=pair[0].send, cls=type("Holder", (), {"sock": pair[0]}), frame=sys._getframe(),
        out=sys.__stdout__, err=sys.__stderr__,
    )  # fmt: skip
    assert find(holder) == Found()
    assert find(sys.__stderr__).descriptors == (2,)  # it was asked for


def test_odd_objects_do_no_harm(pair):
    called = []

    class Odd:
        def __init__(self):
            self.sock = pair[0]

        def __getattribute__(self, name):
            called.append(name)
            raise RuntimeError(name)

        __hash__ = __eq__ = __len__ = __iter__ = __bool__ = __repr__ = __getattribute__

        @property
        def boom(self):
            raise AssertionError

    class Lies(list):
        def __iter__(self):
            raise AssertionError

    class Hash(type):
        def __hash__(cls):
            raise RuntimeError

    class Fileno:
        def fileno(self):
            return self.value

        value = "three"

    class Raises(Fileno):
        def fileno(self):
            raise KeyError

    for odd in (Odd(), Lies([pair[0]])):
        assert find([odd]).descriptors == (pair[0].fileno(),)
    for odd in (Hash("Odd", (), {})(), Fileno(), Raises(), type("Minus", (Fileno,), {"value": -1})()):
        assert find(odd) == Found()
        assert find([odd, pair[0]]).descriptors == (pair[0].fileno(),)
    assert not called


def test_cycles_and_too_much(pair):
    cycle = [pair[0]]
    cycle.append(cycle)
    assert descriptors(cycle) == {pair[0].fileno()}
    wide = find([[] for _ in range(finding.MOST_OBJECTS + 1)])
    deep = value = []
    for _ in range(finding.MOST_DEEP + 1):
        value.append([])
        value = value[0]
    value.append(pair[0])
    for found in (wide, find(deep)):
        assert found == Found(unknown=True, cut_short=True)
    assert find([pair[0], *[[] for _ in range(finding.MOST_OBJECTS)]]) == Found((pair[0].fileno(),), cut_short=True)


def test_while_other_threads_change_it(pair):
    shared, stop = {"sock": pair[0]}, threading.Event()

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            shared[number] = [number]
            shared.pop(number - 50, None)

    with threads(change, 2):
        for _ in range(200):
            assert pair[0].fileno() in find(shared).descriptors
        stop.set()


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


def test_ssl_object_over_a_socket_of_another_name(tls_port):
    raw = socket.create_connection(("127.0.0.1", tls_port), timeout=10)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()

    class Wrapped:
        def __init__(self):
            self.tls = trusting().wrap_bio(incoming, outgoing)
            self.transport = raw

    with raw:
        assert descriptors(Wrapped()) == {raw.fileno()}


def test_asyncio_streams_and_loops(server, tls_port):
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

    for port, context in ((server.port, None), (tls_port, trusting())):
        loop = asyncio.SelectorEventLoop()
        try:
            loop.run_until_complete(asyncio.wait_for(check(port, context), 20))
        finally:
            loop.close()
        assert find(loop) == Found()


def test_client_of_ones_own(server):
    client = Client(server.port)
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


# Clients of other libraries


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


# The extension point


def test_register_finder(pair, forget_finders):
    class Driver:
        __module__ = "driver.of.somebody"
        __qualname__ = "Driver"

        def close(self):
            pass

    class Special(Driver):
        pass

    drivers = [Driver(), Special()]
    assert all(find(each).unknown for each in drivers)
    forksafe.register_finder("driver.of.somebody.Driver", lambda driver: [pair[0].fileno(), {"further": pair[1]}])
    numbers = {each.fileno() for each in pair}
    assert [descriptors(each) for each in drivers] == [numbers] * 2
    forksafe.register_finder(Special, lambda driver: ())
    assert [descriptors(each) for each in drivers] == [numbers, set()]

    def broken(driver):
        raise ValueError

    forksafe.register_finder(Special, broken)
    assert find(drivers[1]) == Found(opaque=(drivers[1],), unknown=True)
    assert find(drivers).descriptors == find(drivers[0]).descriptors


def test_register_finder_with_bad_input():
    for bad in ("Connection", "", "a..b", "a.1"):
        with pytest.raises(ValueError, match="a class or its dotted name"):
            forksafe.register_finder(bad, print)
    with pytest.raises(TypeError, match="a class or its dotted name first, not 3"):
        forksafe.register_finder(3, print)
    with pytest.raises(TypeError, match="takes a callable second"):
        forksafe.register_finder(dict, 3)
    assert dict not in finding._finders


def test_nothing_is_imported():
    program = "import sys; from forksafe.finding import find; find([object()]); print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in succeeds(python("-c", program)).split()}
    assert loaded.isdisjoint({"sqlite3", "asyncio", "ssl", "requests", "redis", "httpx", "psycopg", "logging"})


# flag() and warn_unknown()


def test_flag(pair):
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    found = flag([*pair, closed])
    assert found.descriptors == tuple(each.fileno() for each in pair)
    assert all(map(atfork.is_flagged, found.descriptors))
    assert flag("a value", fds=[number]).descriptors == ()
    assert flag("a value", fds=lambda value: pair[0].fileno()).descriptors == (pair[0].fileno(),)
    assert flag("a value", fds=[pair[1], pair[0].fileno()]).descriptors == (pair[1].fileno(), pair[0].fileno())
    assert flag(pair[0], fds=()) == Found()
    for bad in (lambda value: None, ["three"], [None], 3.5):
        with pytest.raises(TypeError, match="fds= gives descriptors"):
            flag("a value", fds=bad)


def test_warn_unknown_once_for_each_type():
    class Unknown:
        def close(self):
            pass

    class Another(Unknown):
        pass

    for cls in (Unknown, Another):
        value = cls()
        with pytest.warns(
            forksafe.UnknownDescriptorsWarning, match=rf"pool x: its value is a .*{cls.__name__}"
        ) as caught:
            warn_unknown(value, "pool x", find(value), stacklevel=2)
        assert caught[0].filename == __file__ and "fds=" in str(caught[0].message)
        warn_unknown(cls(), "pool y", find(value))  # an error in these tests, if it warned again


def test_what_has_a_fileno_is_not_walked(pair):
    class Both:
        def __init__(self):
            self.inner = pair[1]

        def fileno(self):
            return pair[0].fileno()

    assert descriptors(Both()) == {pair[0].fileno()}
