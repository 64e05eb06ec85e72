"""A web server that forks its workers in advance: the parent opens the socket, the pool and the lock, workers serve.

    python prefork_server.py "host=/var/run/postgresql dbname=test"     # and then: curl http://127.0.0.1:PORT/tea

It needs psycopg and a PostgreSQL. A thread of the parent uses the lock and the pool all the time, so the lock may be
held and connections are in use when a worker is forked. A worker finds the lock free, makes connections of its own, and
leaves the parent's alone, also when it is killed. Ctrl-C or SIGTERM ends the server and its workers.
"""

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import psycopg

import forksafe

WORKERS = 3
SIGNALS = {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM}

lock = forksafe.Lock()
pool = forksafe.ConnectionPool(lambda: psycopg.connect(sys.argv[1], autocommit=True), max_size=4)


class Handler(BaseHTTPRequestHandler):
    """GET /tea adds one to the cups of tea."""

    def do_GET(self) -> None:
        what = self.path.strip("/")
        with lock, pool.connection() as connection:
            row = connection.execute(
                "INSERT INTO cups VALUES (%s, 1) ON CONFLICT (what) DO UPDATE SET n = cups.n + 1 RETURNING n", (what,)
            ).fetchone()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{what}: {row[0]}, from worker {os.getpid()}\n".encode())

    def log_message(self, *args: object) -> None:
        """Be quiet."""


def keep_counting() -> None:
    """Stands for other work of a server's parent."""
    while True:
        with lock, pool.connection() as connection:
            connection.execute("SELECT sum(n) FROM cups").fetchone()
        time.sleep(0.001)


def start_worker(server: HTTPServer) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # SIGTERM ends a worker
            server.serve_forever()
        finally:
            os._exit(1)
    print(f"worker {pid} started", flush=True)
    return pid


def replace_ended(server: HTTPServer, workers: set[int]) -> None:
    for pid in list(workers):
        if os.waitpid(pid, os.WNOHANG)[0]:
            print(f"worker {pid} ended", flush=True)
            workers.remove(pid)
            workers.add(start_worker(server))


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # sigwait() below takes them
    with pool.connection() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS cups (what text PRIMARY KEY, n int)")
    Thread(target=keep_counting, daemon=True).start()
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket.setblocking(False)  # a connection wakes all workers, and one gets it
        print(f"listening on port {server.server_port}", flush=True)
        workers = {start_worker(server) for _ in range(WORKERS)}
        while signal.sigwait(SIGNALS) == signal.SIGCHLD:
            replace_ended(server, workers)
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
    print("all workers ended", flush=True)


if __name__ == "__main__":
    main()
