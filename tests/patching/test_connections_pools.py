"""install(connections=True) and what keeps connections: unmodified engines, pools and event loops work in children."""

from __future__ import annotations

import textwrap

import pytest

from support.connections import ONLY_LOCKS, run
from support.programs import succeeds

# A pool that is made and used before the fork, then in the child, then in the parent again. session() says over which
# connection, or prints what went wrong.

POOLS = {
    "sqlalchemy": ("postgres", "sqlalchemy", """
        import sqlalchemy
        engine = sqlalchemy.create_engine(server.url({tls}))
        def session():
            with engine.connect() as connection:
                return connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar()
    """),
    "sqlalchemy over psycopg": ("postgres", "sqlalchemy", """
        import sqlalchemy
        engine = sqlalchemy.create_engine(server.url({tls}, driver="psycopg"))
        def session():
            with engine.connect() as connection:
                return connection.execute(sqlalchemy.text("SELECT pg_backend_pid()")).scalar()
    """),
    "psycopg_pool": ("postgres", "psycopg_pool", """
        import psycopg_pool
        pool = psycopg_pool.ConnectionPool(server.dsn({tls}), min_size=1, max_size=1, timeout=10)
        def session():
            with pool.connection() as connection:
                return connection.execute("SELECT pg_backend_pid()").fetchone()[0]
    """),
    "peewee": ("postgres", "peewee", """
        import peewee
        database = peewee.PostgresqlDatabase("postgres", dsn=server.dsn({tls}))
        def session():
            return database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]
    """),
    "peewee over PyMySQL": ("mariadb", "pymysql", """
        import peewee
        unchecked = {{"ssl": {{"verify_mode": "none", "check_hostname": False}}}}
        options = unchecked if {tls} else {{"ssl_disabled": True}}
        database = peewee.MySQLDatabase("test", user="root", **{{
            key: value for key, value in server.arguments({tls}).items() if key in ("unix_socket", "host", "port")
        }}, **options)
        def session():
            return database.execute_sql("SELECT CONNECTION_ID()").fetchone()[0]
    """),
    "redis": ("redis_server", "redis", """
        import redis
        client = redis.Redis(**server.arguments({tls}))
        def session():
            return client.client_id()
    """),
}  # fmt: skip
USES = """
from support.server_addresses import MariaDB, Postgres, Redis
server = {server!r}
{pool}
parents = session()
assert session() == parents, "it keeps nothing"
childs = in_child(lambda: (session(), session()))
assert childs[0] == childs[1], childs
assert session() == parents
print("its own" if childs[0] != parents else "shared", flush=True)
os._exit(0)  # a pool's threads may be slow to end
"""


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_used_before_the_fork(tmp_path, request, pool, tls):
    fixture, module, text = POOLS[pool]
    pytest.importorskip(module)
    pytest.importorskip("peewee" if "peewee" in pool else "psycopg")
    server = request.getfixturevalue(fixture)
    text = USES.format(server=server, pool=textwrap.dedent(text).format(tls=tls))
    assert succeeds(run(tmp_path, text, timeout=60)) == "its own\n"
    if pool != "redis" and not tls:  # redis sees to that itself
        control = run(tmp_path, text, install=ONLY_LOCKS, timeout=60)
        assert control.returncode != 0 or control.stdout == "shared\n"


def test_transaction_open_at_fork(tmp_path, postgres):
    """What SQLAlchemy rolls back in the child when it ends is not the parent's."""
    pytest.importorskip("sqlalchemy")
    text = f"""
from support.server_addresses import Postgres
import gc, sqlalchemy
engine = sqlalchemy.create_engine({postgres!r}.url())
with engine.begin() as connection:
    connection.exec_driver_sql("DROP TABLE IF EXISTS kept; CREATE TABLE kept (number int)")
connection = engine.connect()
connection.exec_driver_sql("INSERT INTO kept VALUES (1)")
def child():
    global connection
    connection = None
    gc.collect()
    with engine.begin() as own:
        own.exec_driver_sql("INSERT INTO kept VALUES (2)")
in_child(child)
connection.commit()
with engine.connect() as other:
    print([row[0] for row in other.exec_driver_sql("SELECT number FROM kept ORDER BY number")])
"""
    assert succeeds(run(tmp_path, text)) == "[1, 2]\n"
    control = run(tmp_path, text, install=ONLY_LOCKS)
    assert control.returncode != 0 or control.stdout != "[1, 2]\n"


# Event loops.

LOOP = """
import asyncio, signal
async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()
async def ask(streams, line):
    streams[1].write(line)
    return await asyncio.wait_for(streams[0].readline(), 5)
"""


def test_a_child_of_a_running_loop(tmp_path):
    """It closes its copy of a stream, and takes that away from the parent's epoll, if they share one."""
    text = (
        LOOP
        + """
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    streams = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await ask(streams, b"one\\n") == b"one\\n"
    in_child(streams[1].close)
    assert await ask(streams, b"two\\n") == b"two\\n"
    server.close(); streams[1].close()
asyncio.run(main())
"""
    )
    succeeds(run(tmp_path, text))
    assert "TimeoutError" in run(tmp_path, text, install=ONLY_LOCKS).stderr


CHILD_GOES_ON = (
    LOOP
    + """
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
server = loop.run_until_complete(asyncio.start_server(echo, "127.0.0.1", 0))
address = server.sockets[0].getsockname()
streams = loop.run_until_complete(asyncio.open_connection(*address))
assert loop.run_until_complete(ask(streams, b"one\\n")) == b"one\\n"
signals = []
loop.add_signal_handler(signal.SIGUSR1, signals.append, 1)

async def all_it_can():
    with socket.socket() as free:  # the loop's numbers are its own: what is opened next is not mixed up with them
        assert await asyncio.wait_for(loop.run_in_executor(None, len, "ab"), 10) == 2
        loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        own = asyncio.Event()
        loop.call_later(0.02, own.set)
        await asyncio.wait_for(own.wait(), 10)
    other = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=other[0])
    other[1].send(b"to itself\\n")
    assert await asyncio.wait_for(reader.readline(), 10) == b"to itself\\n"
    writer.close()
    return await asyncio.wait_for(streams[0].read(), 10)

def child():
    forksafe.generation()
    rest = loop.run_until_complete(all_it_can())
    loop.remove_signal_handler(signal.SIGUSR1)
    return rest, len(signals) == (sys.version_info < (3, 12))
results = [in_child(child) for _ in range(2)] + [in_child(lambda: in_child(child))]
assert results == [(b"", True)] * 3, results
assert loop.run_until_complete(ask(streams, b"two\\n")) == b"two\\n"
assert loop.run_until_complete(loop.run_in_executor(None, len, "abc")) == 3
"""
)


def test_inherited_loop_goes_on(tmp_path, fork_name):
    """As programs do that make one when they are imported; from 3.12 on, no loop is woken by signals in a child."""
    text = CHILD_GOES_ON.replace("in_child(child) for", f"in_child(child, FORKS[{fork_name!r}]) for")
    if fork_name != "os.fork":
        text = text.replace("len(signals) == (sys.version_info < (3, 12))", "True")
    succeeds(run(tmp_path, text, timeout=60))


def test_loops_that_were_there_before(tmp_path):
    """Also the one that calls install()."""
    text = (
        LOOP
        + """
async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    forksafe.install(connections=True)
    streams = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert await ask(streams, b"one\\n") == b"one\\n"
    in_child(streams[1].close)
    assert await ask(streams, b"two\\n") == b"two\\n"
    server.close(); streams[1].close()
asyncio.run(main())
"""
    )
    succeeds(run(tmp_path, text, install="import forksafe\n"))
