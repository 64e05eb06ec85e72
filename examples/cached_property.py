"""A thread computes a cached property of one object. A child that is forked then reads the property of another object.

The lock is the property's, for all objects of the class, as in functools.cached_property up to Python 3.11.
"""

import os
import sys
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

primitives = __import__(sys.argv[1] if len(sys.argv) > 1 else "forksafe")

computing, forked = Event(), Event()


class cached_property:
    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self.compute = compute
        self.name = compute.__name__
        self.lock = primitives.RLock()

    def __get__(self, instance: Any, owner: object = None) -> Any:
        with self.lock:  # one thread at a time, so that each value is computed once
            if self.name not in vars(instance):
                vars(instance)[self.name] = self.compute(instance)
            return vars(instance)[self.name]


class Report:
    def __init__(self, period: str) -> None:
        self.period = period

    @cached_property
    def text(self) -> str:
        if self.period == "year":  # so slow that it ends after the fork
            computing.set()
            forked.wait()
        return f"all is well this {self.period}"


def main() -> None:
    of_the_year, of_the_day = Report("year"), Report("day")
    thread = Thread(target=lambda: of_the_year.text, daemon=True)
    thread.start()
    computing.wait()  # now the thread holds the property's lock

    pid = os.fork()
    if pid == 0:  # the child, where that thread does not exist
        os._exit(0 if of_the_day.text == "all is well this day" else 1)

    forked.set()
    thread.join()
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("the child failed")
    print("the child computed the property of its object")


if __name__ == "__main__":
    main()
