"""get_context(): multiprocessing that forks only while that is safe, and leaves no orphans.

Guarantees
  - Each process is started as get_start_method() says at that moment.
  - A daemonic process may start processes. Each process that is daemonic, or that was started by a process of
    multiprocessing, dies with its parent, however that ends (parent_death.py). So do its own, and theirs. Any other,
    which the main program starts with daemon=False, outlives the main program if that is killed, as ever.
  - A forked child leaves the processes of its parent alone (process.py).

Why that survives fork: the context has no state.

Not covered: children made by os.fork() or subprocess.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import BaseContext
from typing import Any

from forksafe.processes.process import Process
from forksafe.processes.start_method import get_start_method

__all__ = ["Context", "get_context"]

_spawn = multiprocessing.get_context("spawn")


def get_context() -> Context:
    """A context of multiprocessing that starts each process in the way that is safe at that moment.

    It is used as those of multiprocessing.get_context(): Process, Pool, Queue, Manager, Lock and so on, and as the
    mp_context of concurrent.futures.ProcessPoolExecutor. Since any start may turn out to be no fork, a program needs
    `if __name__ == "__main__":`, and what processes are given should be picklable.

    Its processes may start others, also when they are daemonic, and these are killed (SIGKILL: no clean-up of theirs
    runs) when their parent ends without having waited for them. It is the same object in each process; a forked child
    uses it as its parent did.
    """
    return _context


class Context(BaseContext):
    """The type of get_context(). get_start_method() says how a process would be started now.

    Locks and what is made of them can be given to processes however these are started, so that the first of them
    starts multiprocessing's resource tracker.
    """

    Process = Process

    def get_start_method(self, allow_none: bool = False) -> str:
        return get_start_method()

    # Those of the spawn context: a lock made for fork alone has no name by which another process could find it.
    Lock: Any = _spawn.Lock
    RLock: Any = _spawn.RLock
    Semaphore: Any = _spawn.Semaphore
    BoundedSemaphore: Any = _spawn.BoundedSemaphore

    def __repr__(self) -> str:
        return f"<forksafe.get_context(), start method now {self.get_start_method()!r}>"

    def __reduce__(self) -> Any:
        return get_context, ()


_context = Context()
