"""Keeps a server running for as long as the test session lives, however that ends; not a test itself.

python keep_server_alive.py FOLDER USER SIGNAL COMMAND ARGUMENT...

Guarantees: the server is ended with SIGNAL, and FOLDER removed with all in it, as soon as a line or the end of file
comes on standard input. The test session has the other end of that pipe: it writes a line, or it is killed. When the
server ends by itself, this does too, with its status. USER is the one the server runs as.

Why that survives fork: the server is a child of this process, not of the test session; no finaliser, atexit function
or signal of a forked test child reaches it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys


def main() -> int:
    folder, user, number, *command = sys.argv[1:]
    other = {"user": user, "group": -1, "extra_groups": []} if user else {}
    if other:
        import pwd

        other["group"] = pwd.getpwnam(user).pw_gid
    with open(os.path.join(folder, "log"), "ab") as log:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, start_new_session=True, **other
        )
    while server.poll() is None:
        if select.select([sys.stdin], [], [], 0.1)[0]:
            server.send_signal(signal.Signals[number])
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
            shutil.rmtree(folder, ignore_errors=True)
            return 0
    return server.returncode or 1


if __name__ == "__main__":
    sys.exit(main())
