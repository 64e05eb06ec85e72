"""The examples that need a server, run for real; those of `forksafe demo` are tested in cli/test_demo.py."""

from __future__ import annotations

import http.client
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from forksafe.cli import demo
from support.programs import python, script, succeeds

QUIET = ("-W", "ignore::DeprecationWarning")  # since 3.12: that a process with threads forks


def text_of(name):
    return (demo._examples() / f"{name}.py").read_text()


def test_sqlalchemy_workers(postgres, tmp_path):
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg2")
    program = script(tmp_path / "program.py", text_of("sqlalchemy_workers"))
    out = succeeds(python(*QUIET, program, postgres.url()))
    assert out == "the parent's order and 12 of its workers are there, in sessions of their own\n"


def test_sqlalchemy_workers_unprotected(postgres, tmp_path):
    """The control: they fail, or hang, or use the parent's session."""
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg2")
    text = text_of("sqlalchemy_workers")
    assert text.count("forksafe.protect(engine)\n") == 1
    program = script(tmp_path / "program.py", text.replace("forksafe.protect(engine)\n", ""))
    try:
        done = python(*QUIET, program, postgres.url(), timeout=3)
    except AssertionError:
        return
    assert done.returncode != 0
    assert "has used a session of its parent" in done.stderr or "sqlalchemy.exc" in done.stderr


class Server:
    """prefork_server.py, run; what it prints is read as it comes."""

    def __init__(self, program, dsn):
        self.process = subprocess.Popen(
            [sys.executable, *QUIET, program, dsn],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.port = int(self.reads(r"listening on port (\d+)"))

    def reads(self, pattern):
        """The group of its next line, which must be this one, within 20 seconds."""
        deadline = time.monotonic() + 20
        line = b""
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            assert left > 0 and select.select([self.process.stdout], [], [], left)[0], f"nothing after {line!r}"
            byte = os.read(self.process.stdout.fileno(), 1)
            assert byte, f"it ended: {self.process.communicate(timeout=10)[1].decode()}"
            line += byte
        found = re.fullmatch(pattern, line.decode().strip())
        assert found, line
        return found[1] if found.groups() else found[0]

    def get(self, what):
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        client.request("GET", f"/{what}")
        found = re.fullmatch(rf"{what}: (\d+), from worker (\d+)\n", client.getresponse().read().decode())
        client.close()
        return int(found[1]), int(found[2])

    def kill(self):
        if self.process.returncode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=10)


@pytest.fixture
def server(postgres, tmp_path):
    pytest.importorskip("psycopg")
    running = Server(script(tmp_path / "program.py", text_of("prefork_server")), postgres.dsn())
    yield running
    running.kill()


def test_prefork_server(server):
    workers = [int(server.reads(r"worker (\d+) started")) for _ in range(3)]
    answers = [server.get("tea") for _ in range(30)]
    assert [count for count, _ in answers] == list(range(1, 31))
    assert {pid for _, pid in answers} <= set(workers)

    for pid in workers:  # one after the other: then all are new ones
        os.kill(pid, signal.SIGKILL)
        assert int(server.reads(r"worker (\d+) ended")) == pid
        workers = [*workers[1:], int(server.reads(r"worker (\d+) started"))]
        count, by = server.get("coffee")
        assert by in workers
    assert count == 3
    assert server.get("tea")[0] == 31

    os.kill(server.process.pid, signal.SIGTERM)
    server.reads("all workers ended")
    assert server.process.wait(10) == 0
    assert server.process.stderr.read() == b""
