"""A log handler with a lock of its own is busy sending a line; a child is forked just then, and logs as well.

The standard library re-initialises logging's own locks in each child. It does not know the lock around the connection.
Log handlers that send to a server have such a lock, and so have other logging libraries.
"""

import logging
import os
import sys
from threading import Event, Thread

primitives = __import__(sys.argv[1] if len(sys.argv) > 1 else "forksafe")

sending, forked = Event(), Event()


class ServerHandler(logging.Handler):
    """Sends one line at a time to a log server."""

    def __init__(self) -> None:
        super().__init__()
        self.connection_lock = primitives.Lock()
        self.sent: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        with self.connection_lock:
            if record.threadName == "slow":  # the server is slow: it answers after the fork
                sending.set()
                forked.wait()
            self.sent.append(record.getMessage())


def main() -> None:
    handler = ServerHandler()
    log = logging.getLogger("example")
    log.addHandler(handler)

    thread = Thread(target=log.warning, args=("from the thread",), name="slow", daemon=True)
    thread.start()
    sending.wait()  # now the thread holds the handler's lock

    pid = os.fork()
    if pid == 0:  # the child, where that thread does not exist
        log.warning("from the child")
        os._exit(0 if handler.sent == ["from the child"] else 1)

    forked.set()
    thread.join()
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("the child failed")
    print("the child logged a line")


if __name__ == "__main__":
    main()
