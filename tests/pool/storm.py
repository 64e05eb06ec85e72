"""A process that forks while its threads use a pool of connections, and its children too; not a test itself.

python storm.py DSN POOL FORKS THREADS. POOL is forksafe's or "naive", a queue of connections.

It prints one line of JSON when the storm is over, and then stays, connected and in a transaction, until it is killed.
The last children stay as well: they have done their work, and hold what they inherited. See test_storm.py.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import psycopg

import forksafe
from forksafe.testing import _kill, _reap

SIZE = 6  # connections, fewer than threads: some wait
CHILD_TIME = 30  # seconds
LINGERING = 3  # children


class Naive:
    """What people write first."""

    def __init__(self, connect: Any, max_size: int) -> None:
        self.idle: queue.Queue[Any] = queue.Queue()
        for _ in range(max_size):
            self.idle.put(connect())

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        connection = self.idle.get(timeout=CHILD_TIME)
        try:
            yield connection
        finally:
            self.idle.put(connection)


class Storm:
    def __init__(self, dsn: str, kind: str) -> None:
        self.dsn = dsn
        self.naive = kind == "naive"
        self.pool: Any = (Naive if self.naive else forksafe.ConnectionPool)(self.connect, max_size=SIZE)
        self.stop = False
        self.committed: dict[str, int] = {}
        self.wrong: list[str] = []

    def connect(self) -> Any:
        return psycopg.connect(self.dsn, application_name=f"storm {os.getpid()}")

    def work_once(self, who: str, number: int) -> None:
        """Ask for something that only this call asks for, and write it down for good."""
        with self.pool.connection() as connection:
            self.ask(connection, f"{who} asks {number}")
            self.write(connection, who, number)
            connection.commit()

    def ask(self, connection: Any, question: str) -> None:
        row = connection.execute("SELECT %s::text, current_setting('application_name')", (question,)).fetchone()
        if row != (question, f"storm {os.getpid()}"):
            raise AssertionError(f"{question!r} in process {os.getpid()} was answered by {row!r}")

    def write(self, connection: Any, who: str, number: int) -> None:
        connection.execute("INSERT INTO storm VALUES (%s, %s, %s)", (os.getpid(), who, number))

    def be_a_thread(self, who: str) -> None:
        number = 0
        try:
            while not self.stop:
                self.work_once(who, number)
                number += 1
        except BaseException as error:
            self.wrong.append(f"{who}: {error!r}")
        self.committed[who] = number

    def be_a_child(self, number: int, linger: int | None) -> None:
        signal.alarm(CHILD_TIME)
        for again in range(2) if linger is None or not self.naive else ():  # with that pool it would not get further
            self.work_once(f"child {number}", again)
        if linger is not None:
            os.write(linger, b"x")
            signal.pause()
        sys.exit(0)

    def fork(self, number: int, linger: int | None = None) -> int:
        pid = os.fork()
        if pid == 0:
            self.be_a_child(number, linger)
        return pid

    def fork_in_transaction(self, number: int) -> int:
        """The child leaves the `with` block by SystemExit; the parent goes on and commits."""
        with self.pool.connection() as connection:
            self.write(connection, "main", number)
            pid = self.fork(number)
            self.ask(connection, f"main asks {number}")
            connection.commit()
        self.committed["main"] = self.committed.get("main", 0) + 1
        return pid

    def fork_often(self, forks: int) -> None:
        for number in range(forks):
            pid = self.fork_in_transaction(number) if number % 2 else self.fork(number)
            status = _reap(pid, CHILD_TIME + 5)
            if status is None:
                _kill(pid)
            if status != 0:
                self.wrong.append(f"child {number} ended with status {status}")

    def fork_some_that_stay(self, forks: int) -> list[int]:
        ready, done = os.pipe()
        pids = [self.fork(forks + number, done) for number in range(LINGERING)]
        os.close(done)
        for _ in pids:
            if not os.read(ready, 1):  # end of file: the others ended
                self.wrong.append("a child that was to stay did not get there")
        return pids


def main() -> None:
    dsn, kind, forks, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    faulthandler.register(signal.SIGALRM, chain=True)
    storm = Storm(dsn, kind)
    sys.setswitchinterval(1e-4)
    threads = [threading.Thread(target=storm.be_a_thread, args=(f"thread {n}",), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    storm.fork_often(forks)
    pids = storm.fork_some_that_stay(forks)
    late = psycopg.connect(dsn, application_name=f"late {os.getpid()}")  # which no child has
    storm.stop = True
    for thread in threads:
        thread.join(CHILD_TIME)
        if thread.is_alive():
            storm.wrong.append(f"{thread.name} is stuck")
    with storm.pool.connection() as connection:
        storm.write(connection, "never committed", 0)
        print(json.dumps({"committed": storm.committed, "wrong": storm.wrong, "stay": pids}), flush=True)
        signal.pause()
    late.close()


if __name__ == "__main__":
    main()
