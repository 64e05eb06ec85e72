"""Eight busy threads share a lock while 200 children are forked, one after the other; each child takes the lock.

The first child that hangs ends the program: it is waited for.
"""

import os
import sys
import time
from threading import Event, Thread

primitives = __import__(sys.argv[1] if len(sys.argv) > 1 else "forksafe")

THREADS = 8
FORKS = 200

lock = primitives.Lock()
done = Event()


def work() -> None:
    while not done.is_set():
        with lock:
            time.sleep(0.0002)  # stands for a short write to a file or a socket


def fork_once() -> bool:
    """Whether a new child took the lock."""
    pid = os.fork()
    if pid == 0:  # the child, where none of the threads exist
        with lock:
            os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def main() -> None:
    threads = [Thread(target=work, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    took = sum(fork_once() for _ in range(FORKS))
    done.set()
    for thread in threads:
        thread.join()
    if took != FORKS:
        sys.exit(f"{FORKS - took} of {FORKS} children failed")
    print(f"{took} of {FORKS} children took the lock, none hung")


if __name__ == "__main__":
    main()
