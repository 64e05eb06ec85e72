"""Two threads hold both permits of a connection pool. A child that is forked then needs permits, too."""

import os
import sys
from threading import Barrier, Event, Thread

primitives = __import__(sys.argv[1] if len(sys.argv) > 1 else "forksafe")

CONNECTIONS = 2

permits = primitives.BoundedSemaphore(CONNECTIONS)
all_taken = Barrier(CONNECTIONS + 1)  # the threads and main()
forked = Event()


def query() -> None:
    with permits:
        all_taken.wait()
        forked.wait()  # so slow that it ends after the fork


def main() -> None:
    threads = [Thread(target=query, daemon=True) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    all_taken.wait()  # now each thread holds a permit

    pid = os.fork()
    if pid == 0:  # the child, where those threads do not exist
        for _ in range(CONNECTIONS):
            permits.acquire()
        os._exit(0)

    forked.set()
    for thread in threads:
        thread.join()
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("the child failed")
    print(f"the child got all {CONNECTIONS} permits")


if __name__ == "__main__":
    main()
