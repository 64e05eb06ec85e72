"""A thread computes an entry of a cache and holds its lock. A child that is forked then looks up another entry."""

import os
import sys
from threading import Event, Thread

primitives = __import__(sys.argv[1] if len(sys.argv) > 1 else "forksafe")

computing, forked = Event(), Event()


class Squares:
    """Square numbers, each computed once."""

    def __init__(self) -> None:
        self.lock = primitives.Lock()
        self.known = {3: 9}

    def get(self, number: int) -> int:
        with self.lock:
            if number not in self.known:
                self.known[number] = slow_square(number)
            return self.known[number]


def slow_square(number: int) -> int:
    computing.set()
    forked.wait()  # so slow that it ends after the fork
    return number * number


def main() -> None:
    squares = Squares()
    thread = Thread(target=squares.get, args=(12,), daemon=True)
    thread.start()
    computing.wait()  # now the thread holds the cache's lock

    pid = os.fork()
    if pid == 0:  # the child, where that thread does not exist
        os._exit(0 if squares.get(3) == 9 else 1)  # an entry that was there before

    forked.set()
    thread.join()
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("the child failed")
    print("the child found its entry in the cache")


if __name__ == "__main__":
    main()
