"""protect() for other libraries' objects, against real servers: the parent's session survives whatever a child does.

Each cure has its control: the same child without protect() ends or garbles the parent's session.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import subprocess
import sys
import threading

import pytest

import forksafe
from forksafe.testing import ChildTimeout, run_in_child
from forksafe_core import atfork

PID = "SELECT pg_backend_pid()"


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def tls(request):
    return request.param


# SQLAlchemy


@pytest.fixture
def engine(postgres, tls):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg2")
    engine = sqlalchemy.create_engine(postgres.url(tls=tls), pool_size=3)
    yield engine
    engine.dispose()


def scalar(engine, text=PID):
    import sqlalchemy

    with engine.connect() as connection:
        return connection.execute(sqlalchemy.text(text)).scalar()


CHILDS = {
    "use": lambda engine: scalar(engine),
    "collect": lambda engine: gc.collect() and 0,
    "dispose": lambda engine: (engine.dispose(), scalar(engine))[1],
    "dispose(close=False)": lambda engine: (engine.dispose(close=False), scalar(engine))[1],
}


@pytest.mark.parametrize("action", list(CHILDS))
@pytest.mark.parametrize("state", ["idle", "in transaction"])
def test_sqlalchemy(engine, action, state, caplog):
    import sqlalchemy

    forksafe.protect(engine)
    session = scalar(engine)

    def child():
        result = CHILDS[action](engine)
        errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
        return result, len(errors)

    if state == "idle":
        own, errors = run_in_child(child)
        assert scalar(engine) == session
    else:
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("CREATE TEMP TABLE t (n int)"))
            own, errors = run_in_child(child)
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        assert scalar(engine) == session
        assert scalar(engine, "SELECT count(*) FROM t") == 1
    assert own != session
    assert errors == 0


def test_sqlalchemy_a_block_open_at_the_fork_ends_quietly_in_the_child(engine, caplog):
    """The survivor leaves its `with engine.begin()` in the child: nothing reaches the parent's transaction."""
    import sqlalchemy

    forksafe.protect(engine)

    result = []

    def use_it():
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("CREATE TEMP TABLE t (n int)"))
            connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
            result.append(run_in_child(lambda: leave(connection)))
            count = connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar()
            connection.commit()
        return count

    def leave(connection):
        failed = None
        try:
            connection.execute(sqlalchemy.text("SELECT 1"))
        except Exception as error:
            failed = str(error)
        connection.close()
        gc.collect()
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        return failed, errors, scalar(engine) > 0

    assert use_it() == 1
    ((failed, errors, works),) = result
    assert "belongs to the parent" in failed
    assert (errors, works) == ([], True)


def test_sqlalchemy_checked_out_before_it_was_protected(engine):
    import sqlalchemy

    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TEMP TABLE t (n int)"))
        forksafe.protect(engine)
        run_in_child(lambda: (engine.pool.dispose(), gc.collect())[0])
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (1)"))
        assert connection.execute(sqlalchemy.text("SELECT count(*) FROM t")).scalar() == 1


def test_sqlalchemy_checked_out_when_its_pool_was_disposed_of(engine, caplog):
    """engine.dispose() makes a new pool; what is checked out stays with the one before."""
    import sqlalchemy

    forksafe.protect(engine)
    text = sqlalchemy.text

    def child():
        for connection in opened:
            with pytest.raises(sqlalchemy.exc.StatementError, match="belongs to the parent"):
                connection.execute(text("SELECT 1"))
            connection.close()
        opened.clear()
        gc.collect()
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
        return errors, scalar(engine) > 0

    opened = []
    for n in range(3):  # two of these pools are never the engine's while a fork looks
        connection = engine.connect()
        connection.execute(text(f"CREATE TEMP TABLE t{n} (n int)"))
        opened.append(connection)
        engine.dispose()
    assert run_in_child(child) == ([], True)
    for n, connection in enumerate(opened):
        connection.execute(text(f"INSERT INTO t{n} VALUES (1)"))
        connection.commit()
        assert connection.execute(text(f"SELECT count(*) FROM t{n}")).scalar() == 1
        connection.close()
    engine.dispose()
    with engine.connect() as connection:
        assert run_in_child(lambda: scalar(engine)) > 0
    forksafe.unprotect(engine)
    engine.dispose()
    with engine.connect() as connection:
        assert not atfork.is_flagged(connection.connection.fileno())


def test_sqlalchemy_after_any_fork(engine, fork):
    forksafe.protect(engine)
    session = scalar(engine)

    def child():
        forksafe.generation()
        return scalar(engine)

    assert run_in_child(child, fork=fork) != session
    assert scalar(engine) == session


def test_sqlalchemy_under_multiprocessing(engine):
    forksafe.protect(engine)
    session = scalar(engine)
    _inherited.append(engine)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sessions = set(pool.map(_inherited_session, range(20)))
    _inherited.clear()
    assert session not in sessions
    assert scalar(engine) == session


_inherited = []


def _inherited_session(_):
    return scalar(_inherited[0])


def test_control_sqlalchemy(postgres):
    """Unprotected, a child that disposes of the engine ends the parent's session."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(postgres.url())
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(PID))
        run_in_child(lambda: connection.connection.close() or connection.close() or engine.dispose() or None)
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            connection.execute(sqlalchemy.text(PID))
    engine.dispose(close=False)


def test_sqlalchemy_in_memory_keeps_its_data():
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = forksafe.protect(sqlalchemy.create_engine("sqlite://"))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (n int)"))
        connection.execute(sqlalchemy.text("INSERT INTO t VALUES (7)"))
    assert run_in_child(lambda: scalar(engine, "SELECT n FROM t")) == 7


def test_unprotect_sqlalchemy(postgres):
    from forksafe_core import atfork

    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = forksafe.protect(sqlalchemy.create_engine(postgres.url()))
    with engine.connect() as connection:
        number = connection.connection.dbapi_connection.fileno()
        assert atfork.is_flagged(number)
        forksafe.unprotect(engine)
        assert not atfork.is_flagged(number)
    engine.dispose()
    with engine.connect() as connection:
        assert not atfork.is_flagged(connection.connection.dbapi_connection.fileno())
    engine.dispose()


@pytest.mark.parametrize("kind", ["Session", "sessionmaker", "scoped_session"])
def test_sqlalchemy_sessions(postgres, kind):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    from sqlalchemy import orm

    engine = sqlalchemy.create_engine(postgres.url())
    factory = orm.sessionmaker(bind=engine)
    protected = {"Session": factory, "sessionmaker": factory, "scoped_session": orm.scoped_session(factory)}[kind]
    forksafe.protect(protected() if kind == "Session" else protected)
    if kind == "Session":
        protected = forksafe.protect(factory())
    session = scalar(engine)
    assert run_in_child(lambda: scalar(engine)) != session
    assert scalar(engine) == session
    engine.dispose()


# psycopg_pool


@pytest.fixture
def pool(postgres, tls):
    psycopg_pool = pytest.importorskip("psycopg_pool")
    pool = psycopg_pool.ConnectionPool(postgres.dsn(tls=tls), min_size=1, max_size=2, open=True, timeout=5)
    pool.wait()
    yield pool
    pool.close()


def pool_session(pool):
    with pool.connection() as connection:
        return connection.execute(PID).fetchone()[0]


def test_psycopg_pool(pool, fork):
    forksafe.protect(pool)
    session = pool_session(pool)

    def child():
        forksafe.generation()
        sessions = {pool_session(pool) for _ in range(4)}
        pool.close()
        return sessions

    sessions = run_in_child(child, fork=fork)
    assert sessions
    assert session not in sessions
    assert pool_session(pool) == session


def test_psycopg_pool_with_everything_checked_out(pool):
    forksafe.protect(pool)
    with pool.connection() as first, pool.connection() as second:
        first.execute("CREATE TEMP TABLE t (n int)")

        def child():
            own = {pool_session(pool), pool_session(pool)}
            try:
                first.execute("SELECT 1")
            except Exception as error:
                failed = type(error).__name__
            pool.putconn(first)
            del own
            return failed, pool.get_stats()["pool_max"]

        assert run_in_child(child) == ("OperationalError", 2)
        assert first.execute("INSERT INTO t VALUES (1)").rowcount == 1
        assert second.execute(PID).fetchone()


def test_control_psycopg_pool(pool):
    """Unprotected, the child has no workers and the parent's connections: all out, it waits in vain."""
    with pool.connection(), pool.connection(), pytest.raises(Exception, match="couldn't get a connection"):
        run_in_child(lambda: pool.getconn(timeout=0.3) and None)


# psycopg2.pool


@pytest.fixture
def psycopg2_pool(postgres):
    pool = pytest.importorskip("psycopg2.pool").ThreadedConnectionPool(0, 2, postgres.dsn())
    yield pool
    pool.closeall()


def pid_of(connection):
    with connection.cursor() as cursor:
        cursor.execute(PID)
        return cursor.fetchone()[0]


def test_psycopg2_pool(psycopg2_pool, fork):
    """In the child all is free, and giving back what was checked out does nothing."""
    pool = psycopg2_pool
    before = pool.getconn()
    forksafe.protect(pool)
    taken = [before, pool.getconn()]
    sessions = [pid_of(connection) for connection in taken]

    def child():
        forksafe.generation()
        mine = list(taken)
        for connection in taken:
            pool.putconn(connection, close=True)
        del taken[:]
        gc.collect()
        own = [pool.getconn(), pool.getconn()]
        pids = [pid_of(connection) for connection in own]
        pool.putconn(own[0])
        pool.putconn(conn=own[1])
        pool.getconn()
        run_in_child(lambda: [pool.putconn(connection) for connection in mine] and None)  # the grandparent's
        return pids

    assert not set(run_in_child(child, fork=fork)) & set(sessions)
    assert [pid_of(connection) for connection in taken] == sessions
    for connection in taken:
        pool.putconn(connection)


def test_control_psycopg2_pool(psycopg2_pool):
    taken = [psycopg2_pool.getconn(), psycopg2_pool.getconn()]
    with pytest.raises(Exception, match="exhausted"):
        run_in_child(lambda: psycopg2_pool.getconn() and None)
    for connection in taken:
        psycopg2_pool.putconn(connection)


# redis


def test_redis(redis_server, tls, fork):
    redis = pytest.importorskip("redis")
    client = forksafe.protect(redis.Redis(**redis_server.arguments(tls)))
    session = client.client_id()

    def child():
        forksafe.generation()
        own = client.client_id()
        client.close()
        gc.collect()
        return own

    assert run_in_child(child, fork=fork) != session
    assert client.client_id() == session


def test_control_redis_single_connection(redis_server):
    redis = pytest.importorskip("redis")
    client = redis.Redis(**redis_server.arguments(), single_connection_client=True)
    session = client.client_id()
    assert run_in_child(client.client_id) == session  # the parent's own connection
    client.close()


def test_redis_single_connection(redis_server):
    redis = pytest.importorskip("redis")
    client = forksafe.protect(redis.Redis(**redis_server.arguments(), single_connection_client=True))
    session = client.client_id()

    def child():
        try:
            return client.client_id()
        except redis.ConnectionError:
            return client.client_id()

    assert run_in_child(child) != session
    assert client.client_id() == session
    client.close()


# HTTP clients


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


def _requests():
    session = pytest.importorskip("requests").Session()
    return session, lambda url: session.get(url, timeout=5).text


def _urllib3():
    manager = pytest.importorskip("urllib3").PoolManager()
    return manager, lambda url: manager.request("GET", url, timeout=5).data.decode()


def _httpx():
    client = pytest.importorskip("httpx").Client(trust_env=False)
    return client, lambda url: client.get(url, timeout=5).text


@pytest.mark.parametrize("make", [_requests, _urllib3, _httpx])
def test_http_clients(make, address, fork):
    """The connection that the parent keeps alive is not used by the child, whose answers are its own."""
    client, get = make()
    get(address)
    forksafe.protect(client)
    mine = get(address + "parent").split()

    def child():
        forksafe.generation()
        return get(address + "child").split()

    port, path = run_in_child(child, fork=fork)
    assert path == "/child"
    assert port != mine[0]
    assert get(address + "parent").split() == mine


@pytest.mark.parametrize("make", [_requests, _urllib3, _httpx])
def test_control_http_clients(make, address):
    _, get = make()
    mine = get(address).split()
    assert run_in_child(lambda: get(address).split()) == mine  # over the parent's connection


@pytest.fixture
def narrow(address):
    """An httpx client with one connection, in the midst of a response."""
    httpx = pytest.importorskip("httpx")
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(trust_env=False, limits=limits, timeout=httpx.Timeout(5, pool=0.3)) as client:
        yield client


def test_httpx_gives_back_what_was_taken(narrow, address, fork):
    forksafe.protect(narrow)
    with narrow.stream("GET", address + "parent") as response:

        def child():
            forksafe.generation()
            own = narrow.get(address + "child").text.split()
            response.close()
            return own, narrow.get(address + "child").text.split()

        first, second = run_in_child(child, fork=fork)
        mine = response.read().decode().split()
    assert first == second != mine  # one connection, its own, kept alive
    assert (first[1], mine[1]) == ("/child", "/parent")
    assert narrow.get(address + "parent").text.split() == mine


def test_control_httpx_waits_for_what_was_taken(narrow, address):
    httpx = pytest.importorskip("httpx")
    with narrow.stream("GET", address), pytest.raises(httpx.PoolTimeout):
        run_in_child(lambda: narrow.get(address).text)


# peewee


def test_peewee(mariadb):
    peewee = pytest.importorskip("peewee")
    pytest.importorskip("pymysql")
    arguments = mariadb.arguments()
    for make in (peewee.MySQLDatabase, __import__("playhouse.pool").pool.PooledMySQLDatabase):
        database = forksafe.protect(make(arguments.pop("database", "test"), **arguments))

        def session(database=database):
            return database.execute_sql("SELECT CONNECTION_ID()").fetchone()[0]

        mine = session()
        assert run_in_child(lambda session=session: (session(), gc.collect())[0]) != mine
        assert session() == mine
        database.close()


def test_peewee_on_postgres(postgres, fork):
    peewee = pytest.importorskip("peewee")
    pytest.importorskip("psycopg2")
    database = peewee.PostgresqlDatabase("postgres", user="postgres", host=postgres.folder, port=postgres.port)
    forksafe.protect(database)

    def session():
        return database.execute_sql(PID).fetchone()[0]

    mine = session()
    assert run_in_child(lambda: (forksafe.generation(), session(), database.close())[1], fork=fork) != mine
    assert session() == mine
    database.close()


def test_control_peewee(postgres):
    peewee = pytest.importorskip("peewee")
    pytest.importorskip("psycopg2")
    database = peewee.PostgresqlDatabase("postgres", user="postgres", host=postgres.folder, port=postgres.port)
    database.execute_sql(PID)
    run_in_child(lambda: database.close() and None)
    with pytest.raises(peewee.DatabaseError):
        database.execute_sql(PID)


# What an unknown object leads to


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
    assert "socket.socket: its connections dead there" in said
    assert "_thread.lock: put right in children" in said
    assert f"dead in children: [{transport.sock.fileno()}]" in said
    busy(client.lock.acquire, client.lock.release)
    busy(transport.lock.acquire, transport.lock.release)

    def child():
        locks = client.lock.acquire(timeout=1), transport.lock.acquire(timeout=1)
        return locks, transport.sock.recv(1)

    assert run_in_child(child) == ((True, True), b"")


def test_control_an_unknown_object(client, busy):
    busy(client.lock.acquire, client.lock.release)
    with pytest.raises(ChildTimeout):
        run_in_child(client.lock.acquire, 0.4, c_stacks=False)


def test_event_loop(fork):
    """A child that takes a reader away takes it from its own, dead, epoll."""
    import asyncio
    import socket

    loop = forksafe.protect(asyncio.new_event_loop())
    a, b = socket.socketpair()
    seen = []
    loop.add_reader(a, lambda: (seen.append(a.recv(9)), loop.stop()))

    def child():
        forksafe.generation()
        loop.remove_reader(a)
        return True

    assert run_in_child(child, fork=fork)
    b.send(b"x")
    loop.call_later(5, loop.stop)
    loop.run_forever()
    assert seen == [b"x"]
    loop.close()
    a.close()
    b.close()


def test_control_event_loop():
    import asyncio
    import socket

    loop = asyncio.new_event_loop()
    a, b = socket.socketpair()
    seen = []
    loop.add_reader(a, lambda: (seen.append(a.recv(9)), loop.stop()))
    run_in_child(lambda: loop.remove_reader(a))
    b.send(b"x")
    loop.call_later(0.2, loop.stop)
    loop.run_forever()
    assert seen == []
    loop.close()
    a.close()
    b.close()


def test_an_adapter_by_name_for_another_library(client):
    name = f"{__name__}.Client"
    with pytest.raises(TypeError, match="takes a callable"):
        forksafe.register_adapter(name, connections=3)
    with pytest.raises(TypeError, match="its dotted name"):
        forksafe.register_adapter("Client")
    forksafe.register_adapter(name, connections=lambda obj: [obj.transports["main"][0].sock])
    try:
        forksafe.protect(client)
        assert run_in_child(lambda: client.transports["main"][0].sock.recv(1)) == b""
    finally:
        from forksafe import adapters

        del adapters._adapters[name]


def test_they_are_held_weakly(postgres):
    """With a connection open, and one out: protect() keeps neither the object nor what watches it."""
    import weakref

    sqlalchemy = pytest.importorskip("sqlalchemy")
    psycopg_pool = pytest.importorskip("psycopg_pool")
    peewee = pytest.importorskip("peewee")
    database = peewee.PostgresqlDatabase("postgres", user="postgres", host=postgres.folder, port=postgres.port)
    database.execute_sql(PID)
    engine, bare = (sqlalchemy.create_engine(postgres.url()) for _ in range(2))
    scalar(engine), scalar(bare)
    pool = psycopg_pool.ConnectionPool(postgres.dsn(), min_size=1, open=True)
    pool_session(pool)
    references = []
    for each in (database, engine, bare.pool, pool):
        references.append(weakref.ref(forksafe.protect(each)))
    pool.close()
    database.close()
    engine.dispose()
    bare.dispose()
    del each, database, engine, bare, pool
    gc.collect()
    assert [reference() for reference in references] == [None] * 4
