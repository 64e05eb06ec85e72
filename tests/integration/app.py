"""What real prefork servers serve in the tests: a WSGI application and a Celery task; not a test itself.

It needs four things that are made here, when this is imported, which is before the fork: a lock, a pool of PostgreSQL
connections, an executor and a background thread. When the import has ended, in the process that forks
  - another thread holds the lock, and never gives it back, so that it holds it at every fork, of new workers, too;
  - the pool has an idle connection, and two that are out: that thread has one, and the main thread;
  - the executor has run tasks, and has its threads;
  - the background thread counts, every FORKSAFE_PREFORK_PARENT_PAUSE seconds; in workers it does so all the time.

answer(parts, number) asks the named parts of those, and tells what each said and which process this is. It waits for
ever where a part does: the client has a limit. On the signal FORKSAFE_PREFORK_SIGNAL any process writes the stacks of
its threads to stderr, also one that waits for the GIL.

FORKSAFE_PREFORK_PRIMITIVES=standard, the control: the same of the standard library alone; forksafe is not imported.
FORKSAFE_PREFORK_DSN says where the PostgreSQL is, FORKSAFE_PREFORK_REDIS, for Celery alone, where its Redis is.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import json
import os
import threading
import time
import traceback
from types import SimpleNamespace

import psycopg

POOL_SIZE = int(os.environ["FORKSAFE_PREFORK_POOL_SIZE"])
STANDARD = os.environ.get("FORKSAFE_PREFORK_PRIMITIVES") == "standard"
PARENT_PAUSE = float(os.environ.get("FORKSAFE_PREFORK_PARENT_PAUSE", "0.005"))
PAUSE = 0.002
PATIENCE = 1 if STANDARD else 20  # seconds for the background thread to count

PARENT = os.getpid()
inside = taken = 0  # who is in the block that the lock guards, and how many have been
counted = (PARENT, 0)  # by the background thread of which process, and how far
me = {}  # who this worker is: pids come again


def connect():
    """A session that says which process it is of."""
    return psycopg.connect(os.environ["FORKSAFE_PREFORK_DSN"], application_name=f"prefork {PARENT} {os.getpid()}")


def count(wait):
    global counted
    while True:
        counted = (os.getpid(), counted[1] + 1)
        if wait(PARENT_PAUSE if os.getpid() == PARENT else PAUSE):
            return


def forksafes():
    import forksafe

    return SimpleNamespace(
        lock=forksafe.Lock(),
        pool=forksafe.ConnectionPool(connect, max_size=POOL_SIZE),
        executor=forksafe.ThreadPoolExecutor(2),
        thread=forksafe.BackgroundThread(lambda thread: count(thread.wait), name="counter"),
    )


class ListPool:
    """What a program without a pool of connections has."""

    def __init__(self):
        self.idle, self.lock = [], threading.Lock()

    @contextlib.contextmanager
    def connection(self):
        with self.lock:
            connection = self.idle.pop() if self.idle else None
        connection = connection or connect()
        yield connection
        connection.rollback()
        with self.lock:
            self.idle.append(connection)


def standards():
    return SimpleNamespace(
        lock=threading.Lock(),
        pool=ListPool(),
        executor=concurrent.futures.ThreadPoolExecutor(2),
        thread=threading.Thread(target=count, args=(threading.Event().wait,), name="counter", daemon=True),
    )


# Before the fork


def use_everything():
    """Returns the main thread's connection, whose block is never left."""
    HAVE.executor.submit(hold_lock).result(10)
    assert HAVE.lock.locked()
    out = HAVE.pool.connection()
    out.__enter__().execute("SELECT 1")
    with HAVE.pool.connection() as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS prefork"
            " (parent int, number int, pid int, session text, PRIMARY KEY (parent, number))"
        )
        connection.commit()
    assert [each.result(10) for each in [HAVE.executor.submit(square, n) for n in range(8)]][7][0] == 49
    HAVE.thread.start()
    while not counted[1]:
        time.sleep(0.001)
    time.sleep(0.1)  # who has just done something and waits for the GIL comes to its next wait
    return out


def hold_lock():
    """Run by the executor: starts the thread that holds the lock for good, and waits until it does."""
    holds = threading.Event()
    threading.Thread(target=hold, args=(holds,), daemon=True).start()
    assert holds.wait(10)


def hold(holds):
    with HAVE.pool.connection() as connection, HAVE.lock:
        connection.execute("SELECT 1")
        holds.set()
        threading.Event().wait()


def square(number):
    return number * number, os.getpid()


# In workers


def ask_lock(number):
    """How many have had the lock in this process: no two requests are told the same."""
    global inside, taken
    with HAVE.lock:
        before, inside = taken, inside + 1
        time.sleep(0)
        assert inside == 1, "two threads are in the block that the lock guards"
        taken, inside = before + 1, inside - 1
        return {"taken": taken}


def ask_pool(number):
    """A row written by this worker, and read again, with the names of the sessions that did it."""
    with HAVE.pool.connection() as connection:
        connection.execute(
            "INSERT INTO prefork VALUES (%s, %s, %s, current_setting('application_name'))",
            (PARENT, number, os.getpid()),
        )
        connection.commit()
        row = connection.execute(
            "SELECT number, pid, session, current_setting('application_name') FROM prefork"
            " WHERE parent = %s AND number = %s",
            (PARENT, number),
        ).fetchone()
    return {"row": row}


def ask_executor(number):
    return {"square": HAVE.executor.submit(square, number).result()}


def ask_thread(number):
    """What the background thread has counted, once it has done so meanwhile."""
    before, deadline = counted, time.monotonic() + PATIENCE
    while counted == before or counted[0] != os.getpid():
        if time.monotonic() > deadline:
            raise RuntimeError("the background thread does not count")
        time.sleep(0.001)
    return {"counted": counted}


def answer(parts, number):
    worker = me.setdefault("worker", os.urandom(8).hex())
    said = {"number": number, "worker": worker, "pid": os.getpid(), "parent": PARENT}
    for part in parts.split(","):
        said.update(ASK[part](number))
    return said


ASK = {"lock": ask_lock, "pool": ask_pool, "executor": ask_executor, "thread": ask_thread}


def application(environ, start_response):
    """GET /lock,pool/7 asks these parts, and answers with JSON."""
    parts, number = environ["PATH_INFO"].strip("/").split("/")
    try:
        status, said = "200 OK", answer(parts, int(number))
    except Exception as error:
        traceback.print_exc()
        status, said = "500 Internal Server Error", {"error": str(error)}
    body = json.dumps(said).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


faulthandler.register(int(os.environ["FORKSAFE_PREFORK_SIGNAL"]), 2, all_threads=True)
HAVE = standards() if STANDARD else forksafes()
OUT = use_everything()

if "FORKSAFE_PREFORK_REDIS" in os.environ:
    import celery

    app = celery.Celery(broker=os.environ["FORKSAFE_PREFORK_REDIS"], backend=os.environ["FORKSAFE_PREFORK_REDIS"])
    app.conf.worker_proc_alive_timeout = 60  # on a busy machine a worker is not ready within its 4 seconds
    app.task(name="prefork.answer")(answer)
