"""A worker thread waits for jobs. A child is forked, starts a worker of its own, and gives it a job.

The condition wakes the worker that has waited longest. In the child that is the parent's worker, which does not exist.
"""

import os
import sys
from threading import Event, Thread

primitives = __import__(sys.argv[1] if len(sys.argv) > 1 else "forksafe")


class Jobs:
    """A queue of jobs: put() wakes one of the workers that wait in take()."""

    def __init__(self) -> None:
        self.changed = primitives.Condition()
        self.queue: list[str] = []

    def put(self, job: str) -> None:
        with self.changed:
            self.queue.append(job)
            self.changed.notify()

    def take(self, waiting: Event) -> str:
        with self.changed:
            waiting.set()
            while not self.queue:
                self.changed.wait()
            return self.queue.pop(0)

    def start_worker(self) -> Thread:
        waiting = Event()
        worker = Thread(target=self.take, args=(waiting,), daemon=True)
        worker.start()
        waiting.wait()
        with self.changed:
            pass  # the worker releases this lock only when it waits, so now it waits
        return worker


def main() -> None:
    jobs = Jobs()
    worker = jobs.start_worker()

    pid = os.fork()
    if pid == 0:  # the child, where that worker does not exist
        worker = jobs.start_worker()
        jobs.put("for the child's worker")
        worker.join()
        os._exit(0)

    jobs.put("for the parent's worker")
    worker.join()
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit("the child failed")
    print("the child's worker got its job")


if __name__ == "__main__":
    main()
