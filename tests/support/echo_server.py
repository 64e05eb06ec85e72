"""A real little server whose sessions can be damaged, and its client: what a database is to a pool, in small.

A session answers each line with its number and the line. `quit` ends it, as a driver's close() or finaliser does; the
server remembers what each session was sent. It is a process of its own: run this file, and it prints its port.
"""

from __future__ import annotations

import itertools
import json
import socket
import socketserver
import subprocess
import sys
import time

_numbers = itertools.count(1)
_received: dict[int, list[str]] = {}
_alive: set[int] = set()


class _Session(socketserver.StreamRequestHandler):
    def handle(self):
        number = next(_numbers)
        _received[number] = []
        _alive.add(number)
        try:
            for line in self.rfile:
                text = line.decode().strip()
                if text == "tell":
                    self.answer(json.dumps({"received": _received, "alive": sorted(_alive - {number})}))
                    continue
                _received[number].append(text)
                if text == "quit":
                    return
                self.answer(f"{number} {text}")
        except OSError:
            pass
        finally:
            _alive.discard(number)

    def answer(self, text):
        self.wfile.write(text.encode() + b"\n")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 200


class Session:
    """A client's connection. Like most drivers' it says goodbye when it is closed, or collected."""

    def __init__(self, port, timeout=10.0):
        self.closed = False
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.number = int(self.query("hello").split()[0])

    def query(self, text):
        self.socket.sendall(text.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            more = self.socket.recv(1 << 16)
            if not more:
                raise ConnectionResetError("the server closed the connection")
            answer += more
        return answer.decode().strip()

    def rollback(self):
        self.query("rollback")

    def close(self):
        if not self.closed:
            self.closed = True
            try:
                self.socket.sendall(b"quit\n")
            except OSError:
                pass
            self.socket.close()

    def __del__(self):
        if hasattr(self, "socket"):
            self.close()


class Server:
    """The server's process, and what it tells."""

    def __init__(self):
        command = [sys.executable, __file__]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.tell()  # the first to connect imports what a fork in the middle of that would leave locked

    def connect(self):
        return Session(self.port)

    def tell(self):
        with socket.create_connection(("127.0.0.1", self.port), 10) as asking:
            asking.sendall(b"tell\n")
            with asking.makefile() as answers:
                return json.loads(answers.readline())

    def received(self, number):
        """What that session was sent after `hello`."""
        return self.tell()["received"][str(number)][1:]

    def is_alive(self, number):
        return number in self.tell()["alive"]

    def ends(self, number, timeout=10.0):
        """True once the session has ended; False when it has not within the time."""
        deadline = time.monotonic() + timeout
        while self.is_alive(number):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.terminate()
        self.process.wait(10)


if __name__ == "__main__":
    with _Server(("127.0.0.1", 0), _Session) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
