"""Prefork servers of others, run for the tests with integration/app.py, and clients that check every answer.

Guarantees: a server is the leader of a session of its own, which is killed as a whole when the block is left, whatever
happens in it, and when the tests themselves are killed. Every wait is bounded. What fails within the block is an
AssertionError with the server's log, in which all its processes have written their stacks, and with their C stacks
where gdb is installed.

FORKSAFE_PREFORK_REQUESTS: how many requests are sent; FORKSAFE_PREFORK_RECYCLE: after how many a worker is replaced,
by default a twentieth of them. The figures of a run are printed: pytest -s shows them.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.pools import wait_until
from support.programs import TESTS, path_with_tests
from support.threads import threads

APPLICATION = str(Path(TESTS) / "integration")  # where app.py is
REQUESTS = int(os.environ.get("FORKSAFE_PREFORK_REQUESTS", "300"))
RECYCLE = int(os.environ.get("FORKSAFE_PREFORK_RECYCLE", max(50, REQUESTS // 20)))
WORKERS, THREADS, CLIENTS = 2, 4, 8
POOL_SIZE = 3  # that many connections has the process that forks, and each worker at most
PARENTS_THREADS = (
    7  # the main one, the lock's holder, the executor's two, the counting one, the pool's, one of a server
)
ALL = "lock,pool,executor,thread"  # the parts of integration/app.py

LIMIT = 30  # seconds that only a hang reaches
HANGS = 2.0  # seconds after which a control that is to hang is taken to do so
ALL_ANSWERED = 60 + REQUESTS / 10  # seconds
TIMEOUT = ALL_ANSWERED + 120  # for a test: stopping and stacks come on top

SIGNAL = int(getattr(signal, "SIGRTMIN", signal.SIGUSR2)) + 5  # has a process write its stacks; no server uses it
REFUSED = ("Traceback", "ForkHazardWarning", "Exception ignored", "Fatal Python error", "WORKER TIMEOUT", "SIGKILL")
# A program: kills the process group that it is given when the tests end, or are killed.
KILLER = "import os, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), 9)"


@contextlib.contextmanager
def running(command, postgres, **environment):
    """The server, run until the block is left. environment: FORKSAFE_PREFORK_... for integration/app.py."""
    with tempfile.TemporaryDirectory(prefix="forksafe-") as folder:
        server = Server(command, folder, DSN=postgres.dsn(), **environment)
        try:
            yield server
        except (Exception, pytest.fail.Exception) as failure:
            raise AssertionError(f"{type(failure).__name__}: {failure}\n{server.looked_into()}") from failure
        finally:
            server.kill()


class Server:
    """{socket} in its command stands for the path of the Unix socket that it is to listen at."""

    def __init__(self, command, folder, **environment):
        self.socket, self._log = f"{folder}/socket", Path(folder) / "log"
        environment.update(SIGNAL=SIGNAL, POOL_SIZE=POOL_SIZE)
        names = {f"FORKSAFE_PREFORK_{name}": str(value) for name, value in environment.items()}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *(part.format(socket=self.socket) for part in command)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True,
                env={**os.environ, **path_with_tests(APPLICATION), "XDG_RUNTIME_DIR": folder, **names},
            )  # fmt: skip
        self.pid = self.process.pid
        killer = [sys.executable, "-S", "-c", KILLER, str(self.pid)]
        self._killer = subprocess.Popen(killer, stdin=subprocess.PIPE, start_new_session=True)

    @property
    def log(self):
        return self._log.read_text(errors="replace")

    def session(self, pid=""):
        """How a process of the server names its sessions with the PostgreSQL."""
        return f"prefork {self.pid} {pid}"

    def wait_listening(self):
        deadline = time.monotonic() + LIMIT
        while self.process.poll() is None:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.connect(self.socket)
                return
            assert time.monotonic() < deadline, "it does not listen"
            time.sleep(0.02)
        raise AssertionError("it ended")

    def get(self, parts, number, limit=LIMIT):
        """What the application answers; TimeoutError if it does not."""
        client = Client("localhost", timeout=limit)
        client.path = self.socket
        with contextlib.closing(client):
            client.request("GET", f"/{parts}/{number}", headers={"Connection": "close"})
            return json.loads(client.getresponse().read())

    def stop(self):
        """SIGTERM ends it, with status 0, and nothing of it is left."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(LIMIT) == 0
        assert self.members() == []

    def kill(self):
        """The leader first, so that no worker is made meanwhile."""
        if self.process.poll() is None:
            self.process.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.process.wait(LIMIT)
        self._killer.kill()
        self._killer.communicate(timeout=LIMIT)
        deadline = time.monotonic() + LIMIT
        while members := self.members():
            assert time.monotonic() < deadline, f"cannot be killed: {members}"
            for pid in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def members(self):
        """The processes of its session that live; none where the system does not tell."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state not in "ZX":
                    found.append(int(path.parent.name))
        return found

    def wait_settled(self):
        """Until no worker is being replaced."""
        if not self.members():
            return  # the system does not tell
        deadline, before, since = time.monotonic() + LIMIT, set(), 0.0
        while len(before) != 1 + WORKERS or time.monotonic() - since < 1:
            members = set(self.members())
            if members != before:
                before, since = members, time.monotonic()
            assert time.monotonic() < deadline, f"there are not {WORKERS} workers: {members}"
            time.sleep(0.05)

    def threads(self):
        """How many threads the process that forks has; 0 where the system does not tell."""
        tasks = Path(f"/proc/{self.pid}/task")
        return len(list(tasks.iterdir())) if tasks.exists() else 0

    def looked_into(self):
        """Its log, with the stacks that its processes write there now, and their C stacks."""
        members = self.members()
        native = [c_stacks(pid) for pid in members[:4]]
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, SIGNAL)
        time.sleep(0.5)
        return "\n".join([f"log of {self.pid}, with {members}:", self.log[-20000:], *native])


class Client(http.client.HTTPConnection):
    """Over a Unix socket, so that no two servers want the same port."""

    path = ""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def c_stacks(pid):
    command = [shutil.which("gdb") or "", "-nx", "-q", "-batch", "-p", str(pid), "-ex", "thread apply all bt 20"]
    lines = []
    if command[0]:
        with contextlib.suppress(subprocess.SubprocessError):
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=15)
            lines = [line for line in done.stdout.splitlines() if line.startswith(("#", "Thread "))]
    return "\n".join([f"C stacks of {pid}:", *lines])


class Sessions:
    """A server's sessions with the PostgreSQL, looked at all the time. most: how many there were at once."""

    def __init__(self, postgres, server):
        self.connection = importlib.import_module("psycopg").connect(postgres.dsn(), autocommit=True)
        self.server, self.most, self._done = server, 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._thread.join(LIMIT)
        self.connection.close()

    def now(self):
        """Their names."""
        query = "SELECT application_name FROM pg_stat_activity WHERE starts_with(application_name, %s)"
        return [name for (name,) in self.connection.execute(query, [self.server.session()])]

    def _look(self):
        while not self._done.wait(0.02):
            self.most = max(self.most, len(self.now()))


def ask_all(ask):
    """ask(number) for each number below REQUESTS, by CLIENTS threads; what they were answered, in any order."""
    numbers, answers, failures = queue.SimpleQueue(), [], []
    for number in range(REQUESTS):
        numbers.put(number)

    def run():
        while not failures:
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            try:
                answers.append(ask(number))
            except Exception as error:
                failures.append(f"request {number}: {error!r}")

    with threads(run, CLIENTS, ALL_ANSWERED):
        pass
    assert not failures, failures
    return answers


def serves(server, postgres, ask_everything, overdue):
    """All is well: what the server answers, how it replaces its workers, its sessions, its end, and its log.

    ask_everything() returns the answers to REQUESTS requests. overdue: how many a worker may answer beyond RECYCLE.
    """
    with Sessions(postgres, server) as sessions:
        began = time.monotonic()
        answers = ask_everything()
        seconds = time.monotonic() - began
        wrong = [said for said in answers if not is_right(said, server)]
        assert not wrong, f"{len(wrong)} of {len(answers)} answers, one of them {wrong[0]}"
        query = "SELECT number, pid FROM prefork WHERE parent = %s ORDER BY number"
        rows = sessions.connection.execute(query, [server.pid]).fetchall()
        assert rows == sorted((said["number"], said["pid"]) for said in answers)
        assert [number for number, _ in rows] == list(range(REQUESTS))
        workers = check_workers(answers, overdue)
        assert sessions.now().count(server.session(server.pid)) == POOL_SIZE, "workers end no session of the parent's"
        assert server.threads() <= PARENTS_THREADS, "forks leave threads behind in the parent"
        server.stop()
        wait_until(lambda: not sessions.now())
        assert sessions.most <= POOL_SIZE * (1 + 2 * WORKERS), "those of workers that end, and of their successors"
    assert not [word for word in REFUSED if word in server.log]
    print(f"{len(answers)} answers of {workers} workers in {seconds:.1f} s, at most {sessions.most} sessions")


def is_right(said, server):
    """An answer in which nothing of another process shows."""
    if "error" in said:
        return False
    number, pid = said["number"], said["pid"]
    return (
        said["parent"] == server.pid != pid
        and said["row"] == [number, pid, server.session(pid), server.session(pid)]
        and said["square"] == [number * number, pid]
        and said["counted"][0] == pid
    )


def check_workers(answers, overdue):
    """They were replaced in time, and no two requests to one were in the locked block at once. How many there were."""
    taken = defaultdict(list)
    for said in answers:
        taken[said["worker"], said["pid"]].append(said["taken"])
    for numbers in taken.values():
        assert len(set(numbers)) == len(numbers) <= RECYCLE + overdue, sorted(numbers)
    assert len(taken) >= max(REQUESTS // (RECYCLE + overdue), WORKERS + 1)
    return len(taken)


def shows_harm(server, ask):
    """The control: what becomes of the standard library's. ask(part, number, limit)."""
    sessions = ask("pool", 0, LIMIT)["row"][2:]
    assert sessions == [server.session(server.pid)] * 2, "the worker has used a session of its parent"
    assert ask("thread", 1, LIMIT) == {"error": "the background thread does not count"}
    with ThreadPoolExecutor(2) as pool:
        hanging = [pool.submit(ask, part, number, HANGS) for number, part in enumerate(("executor", "lock"), 2)]
    # Or, from CPython 3.13 on, the worker crashes where it would wake a thread that is not there.
    assert all(isinstance(each.exception(), (TimeoutError, ConnectionError)) for each in hanging)
