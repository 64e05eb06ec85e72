"""A small real server with sessions, and a client that does as database drivers do: collecting it ends its session."""

from __future__ import annotations

import os
import socket
import socketserver
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with self.server.counting:
            self.server.count += 1
            number = self.server.count
        for line in self.rfile:
            command = line.decode().strip()
            if command == "quit":
                return
            self.wfile.write(f"{number} {command}\n".encode())
            self.wfile.flush()


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128
    count = 0
    counting = threading.Lock()


@dataclass(frozen=True)
class Server:
    """Answers each line with the session's number and that line; `quit` ends the session."""

    port: int


class Client:
    """One session. Collecting it ends the session, as mysqlclient, DBUtils and others do."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.sock.makefile("rb")

    def ask(self, text: str = "who") -> str:
        self.sock.sendall(f"{text}\n".encode())
        answer = self.file.readline().decode().strip()
        if not answer:
            raise ConnectionError("the server has closed this session")
        return answer

    @property
    def session(self) -> int:
        return int(self.ask().split()[0])

    def close(self) -> None:
        try:
            self.sock.sendall(b"quit\n")
        except OSError:
            pass
        self.file.close()
        self.sock.close()

    def __del__(self) -> None:
        if self.sock.fileno() >= 0:
            self.close()


@contextmanager
def serving() -> Iterator[Server]:
    """A server in a process of its own: threads here would compete for the GIL, which children of C forks do not get
    when another thread has asked for it at that moment."""
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        try:
            assert process.stdout is not None
            yield Server(int(process.stdout.readline()))
        finally:
            process.kill()


def connected_to(port: int) -> set[int]:
    """This process's descriptors that are sockets connected to a port of 127.0.0.1."""
    found = set()
    for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(name))) as copy:
                peer = copy.getpeername()
        except OSError:
            continue
        if isinstance(peer, tuple) and peer[1] == port:
            found.add(int(name))
    return found


def _serve() -> None:
    with _Listener(("127.0.0.1", 0), _Session) as listener:
        print(listener.server_address[1], flush=True)
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        sys.stdin.read()  # until the tests have ended, however they do


if __name__ == "__main__":
    _serve()
