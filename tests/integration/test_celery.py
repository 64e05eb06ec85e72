"""Celery's prefork pool, whose tasks need what was made before the fork.

The client is a program of its own, this file: Celery's would leave its hooks and connections in the tests' process.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import sys

import pytest

from support.prefork_servers import (
    ALL,
    ALL_ANSWERED,
    CLIENTS,
    LIMIT,
    RECYCLE,
    REQUESTS,
    TIMEOUT,
    WORKERS,
    running,
    serves,
    shows_harm,
)
from support.programs import path_with_tests, python

celery = pytest.importorskip("celery")
pytest.importorskip("psycopg")

COMMAND = [
    "-m", "celery", "-A", "app", "worker", "--pool", "prefork", "--concurrency", str(WORKERS),
    "--max-tasks-per-child", str(RECYCLE), "--loglevel", "WARNING", "--without-gossip", "--without-mingle",
]  # fmt: skip


@pytest.fixture
def broker(redis_server):
    """A database of the Redis, for this test alone."""
    redis = pytest.importorskip("redis")
    with redis.Redis(**redis_server.arguments(), db=7) as client:
        client.flushdb()
        yield f"redis://127.0.0.1:{redis_server.port}/7"
        client.flushdb()


@pytest.mark.timeout(TIMEOUT)
def test_celery(postgres, broker):
    with running(COMMAND, postgres, REDIS=broker) as server:
        serves(server, postgres, lambda: ask(broker, ALL, 0, REQUESTS, LIMIT), 0)


def test_control(postgres, broker):
    with running(COMMAND, postgres, REDIS=broker, PRIMITIVES="standard") as server:
        shows_harm(server, lambda part, number, limit: ask(broker, part, number, 1, limit)[0])


def ask(broker, parts, first, count, limit):
    """The client's answers to so many requests; TimeoutError if there is none to one."""
    done = python(
        __file__, broker, parts, str(first), str(count), str(limit), timeout=ALL_ANSWERED, env=path_with_tests()
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    if answers and answers[-1] == "no answer":
        raise TimeoutError(f"no answer to request {first + len(answers) - 1}")
    assert len(answers) == count, done.stderr
    return answers


def client(broker, parts, first, count, limit):
    """The program: asks, from CLIENTS threads, and prints the answers in order; the first that is missing ends it."""
    app = celery.Celery(broker=broker, backend=broker)

    def ask(number):
        try:
            return app.send_task("prefork.answer", (parts, number)).get(timeout=float(limit))
        except celery.exceptions.TimeoutError:
            return "no answer"
        except RuntimeError as error:
            return {"error": str(error)}

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        for said in threads.map(ask, range(int(first), int(first) + int(count))):
            print(json.dumps(said), flush=True)
            if said == "no answer":
                os._exit(1)


if __name__ == "__main__":
    client(*sys.argv[1:])
