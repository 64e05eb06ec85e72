"""Forks while eight threads run queries through one pool, and each child its own: no row wrong, no commit lost.

And when the parent dies its sessions end at the server, although children live that inherited them.

FORKSAFE_STORM=2000 python -m pytest tests/pool/test_storm.py runs the long form.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

psycopg = pytest.importorskip("psycopg")
COUNT = int(os.environ.get("FORKSAFE_STORM", "15"))
PROGRAM = Path(__file__).with_name("storm.py")


@contextlib.contextmanager
def storm(postgres, kind, forks, threads, limit):
    """The program, and what it prints when its storm is over; all its processes are killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(PROGRAM), postgres.dsn(), kind, str(forks), str(threads)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        told = select.select([process.stdout], [], [], limit)[0] and process.stdout.readline()
        if not told:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"the storm was not over in {limit} s, or ended:\n{process.communicate()[1][-5000:]}")
        yield process, json.loads(told)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def server(postgres):
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS storm")
        connection.execute("CREATE TABLE storm (pid int, who text, number int, UNIQUE (pid, who, number))")
        yield connection


def rows(server, pid):
    found = server.execute("SELECT who, count(*) FROM storm WHERE pid = %s GROUP BY who", (pid,)).fetchall()
    return dict(found)


def sessions(server, name):
    return server.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", (name,)).fetchone()[0]


def no_session_is_left(server, name, limit=20):
    """The end of its process reaches the server a little later."""
    deadline = time.monotonic() + limit
    while sessions(server, name):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def kill_parent(process):
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


@pytest.mark.timeout(1500)
def test_storm(postgres, server):
    with storm(postgres, "forksafe", COUNT, 8, limit=60 + COUNT / 2) as (process, told):
        parent, stay, committed = process.pid, told["stay"], told["committed"]
        assert told["wrong"] == []
        assert len(committed) == 9 and all(committed.values())
        assert rows(server, parent) == committed
        children = server.execute("SELECT who, count(*) FROM storm WHERE pid <> %s GROUP BY who", (parent,)).fetchall()
        assert dict(children) == {f"child {number}": 2 for number in range(COUNT + len(stay))}

        assert sessions(server, f"storm {parent}") > 0
        kill_parent(process)
        assert no_session_is_left(server, f"storm {parent}")
        assert [sessions(server, f"storm {pid}") for pid in stay] == [1] * len(stay)  # they live
        assert rows(server, parent) == committed


def test_naive_pool_sessions_shared(postgres, server):
    """The control: its children work in the parent's sessions."""
    with storm(postgres, "naive", 2, 0, limit=60) as (_, told):
        assert told["wrong"] == ["child 0 ended with status 1", "child 1 ended with status 1"]


def test_naive_pool_sessions_kept_alive(postgres, server):
    """The control: children keep the parent's sessions alive."""
    with storm(postgres, "naive", 0, 0, limit=60) as (process, told):
        parent, stay = process.pid, told["stay"]
        kill_parent(process)
        assert no_session_is_left(server, f"late {parent}")  # which no child inherited
        assert sessions(server, f"storm {parent}") == 6
        for pid in stay:
            os.kill(pid, signal.SIGKILL)
        assert no_session_is_left(server, f"storm {parent}")
