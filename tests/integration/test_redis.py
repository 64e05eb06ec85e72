"""redis-py on a real Redis: whatever a child does, its parent keeps its sessions.

See support/driver_matrix.py for what a cell is. All cells of a driver run in one program, at the first test that asks.
"""

from __future__ import annotations

import gc
import json
import sys
import time

import pytest

import forksafe
from forksafe.testing import run_in_child
from support import drivers
from support.cover import cover
from support.driver_matrix import CELLS, CONTROLS, STATES, Cell, cells_of, damaged, in_this_process, run_matrix
from support.forks import FORKS
from support.programs import python, script, succeeds

DRIVERS = ("redis",)
TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


@pytest.fixture(params=[False, True], ids=["plain", "TLS"])
def client(redis_server, request):
    redis = pytest.importorskip("redis")
    return redis.Redis(**redis_server.arguments(request.param))


@pytest.fixture
def other(redis_server):
    """Somebody else's client."""
    return pytest.importorskip("redis").Redis(**redis_server.arguments())


@pytest.mark.parametrize(("driver", "cell"), cells_of(DRIVERS, dict.fromkeys(DRIVERS, CELLS)))
@TLS
def test_cell(redis_server, driver, tls, cell):
    """The parent keeps what it has."""
    assert run_matrix(driver, redis_server, tls)[cell] == []


@pytest.mark.parametrize(("driver", "cell"), cells_of(DRIVERS, CONTROLS))
@TLS
def test_cell_without_cure(redis_server, driver, tls, cell):
    """The control: the parent suffers."""
    wrong = run_matrix(driver, redis_server, tls)[cell]
    assert damaged(wrong), wrong


# No pool among the cures: its threads compete for the GIL, after which the child of a C fork may hang.
@cover(fork_name=FORKS, tls=(False, True), cure=("close_on_fork", "resource"), state=STATES, action=("gc", "query"))
def test_every_way_to_fork(redis_server, fork, tls, cure, state, action):
    pytest.importorskip("redis")
    driver = drivers.DRIVERS["redis"](redis_server, tls)
    assert in_this_process(driver, Cell(cure, state, action), fork) == []


def watching(client):
    """A pipeline that watches a key, which it has its own connection for."""
    pipeline = client.pipeline()
    pipeline.watch("watched")
    pipeline.multi()
    pipeline.set("written", 1)
    return [pipeline]


def collect(held):
    held.clear()
    gc.collect()


def is_watched(held, other):
    """Whether the server refuses the transaction once the key has changed."""
    from redis import WatchError

    other.incr("watched")
    try:
        held[0].execute()
    except WatchError:
        return True
    return False


@pytest.mark.parametrize("cure", ["close_on_fork", "resource"])
def test_pipeline_collected_in_child(client, other, cure):
    """In the parent it goes on watching."""
    if cure == "resource":
        held = [forksafe.resource(lambda: watching(client)[0])()]
    else:
        held = watching(client)
        forksafe.close_on_fork(held[0].connection._sock)
    run_in_child(lambda: collect(held))
    assert is_watched(held, other)


def test_pipeline_unprotected(redis_server, other):
    """The control: collected in the child, it watches no more."""
    client = pytest.importorskip("redis").Redis(**redis_server.arguments())
    held = watching(client)
    run_in_child(lambda: collect(held))
    assert not is_watched(held, other)


def subscribed(client):
    subscription = client.pubsub(ignore_subscribe_messages=True)
    subscription.subscribe("news")
    assert subscription.get_message(timeout=5) is None
    return subscription


def hear(subscription):
    message = subscription.get_message(timeout=5)
    return message and message["data"]


USES = {
    "gc": lambda held: collect(held),
    "close": lambda held: held[0].close(),
    "unsubscribe": lambda held: held[0].unsubscribe("news"),
    "listen": lambda held: held[0].get_message(timeout=0.05),
}


@cover(client=(False, True), fork_name=FORKS, use=USES)
def test_subscription_used_in_child(client, other, fork, use):
    """It goes on in the parent."""
    held = [subscribed(client)]
    forksafe.close_on_fork(held[0].connection._sock)

    def child():
        forksafe.generation()  # where no handler ran, forksafe learns of the fork by the first call of it
        try:
            USES[use](held)
        except Exception:  # it may fail
            pass

    run_in_child(child, fork=fork)
    assert other.publish("news", "today") >= 1
    assert hear(held[0]) == b"today"


def test_subscription_unprotected(redis_server, other):
    """And it unsubscribes the parent."""
    client = pytest.importorskip("redis").Redis(**redis_server.arguments())  # its pool goes with it
    held = [subscribed(client)]
    other.publish("news", "for the parent")
    assert run_in_child(lambda: hear(held[0])) == b"for the parent"
    run_in_child(lambda: held[0].unsubscribe("news"))
    deadline = time.monotonic() + 10
    while other.publish("news", "for nobody") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert other.publish("news", "for nobody") == 0


# OpenSSL holds locks while a thread ends, before 3.13 after Thread.join() has returned: a child that is forked just
# then hangs at its first use of TLS. So a pool's threads must be gone from the system, too, when a fork comes.
STILL_ENDING = """
import json, os, sys, threading

def threads_of_the_system():
    return {int(task) for task in os.listdir("/proc/self/task")}

def look():
    pythons = {thread.native_id for thread in threading.enumerate()}
    seen.append(len(threads_of_the_system() - pythons))

seen = []
os.register_at_fork(before=look)  # earlier than forksafe's: it runs last

import redis, forksafe

def connect():
    return redis.Redis(single_connection_client=True, **json.loads(sys.argv[1]))

def with_a_pool():
    with forksafe.ConnectionPool(connect, max_size=1) as pool, pool.connection():
        fork()

def with_a_thread():
    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    fork()

def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

for _ in range(int(sys.argv[3])):
    globals()[sys.argv[2]]()
    if sum(seen):
        break
print(sum(seen))
"""


def threads_still_ending(redis_server, tmp_path, who, rounds):
    pytest.importorskip("redis")
    program = script(tmp_path / "program.py", STILL_ENDING)
    arguments = json.dumps(redis_server.arguments(True))
    return int(succeeds(python("-W", "ignore", program, arguments, who, str(rounds), timeout=60)))


def test_pool_threads_at_fork(redis_server, tmp_path):
    """None is still ending."""
    assert threads_still_ending(redis_server, tmp_path, "with_a_pool", 20) == 0


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="since 3.13 join() waits for the system's thread")
def test_joined_thread_at_fork(redis_server, tmp_path):
    """The control: it is still ending."""
    assert threads_still_ending(redis_server, tmp_path, "with_a_thread", 100) > 0
