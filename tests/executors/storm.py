"""Threads that submit, workers that run, and forks among them, from outside and from inside tasks; not a test itself.

python storm.py FORKS THREADS WORKERS [standard]: with concurrent.futures' executor, if asked for. Each task
notes its number in memory that all processes share, so that one which a child did a second time is counted there. Ends
with status 0 if nothing was lost.
"""

from __future__ import annotations

import concurrent.futures
import mmap
import os
import random
import signal
import sys
import threading
import time

import forksafe

FORKS, THREADS, WORKERS = map(int, sys.argv[1:4])
STANDARD = sys.argv[4:] == ["standard"]
MOST = 50_000_000
LIMIT = 5 if STANDARD else 60  # seconds for a child

done = mmap.mmap(-1, MOST)  # shared with every child: how often each task was run
executor = (concurrent.futures if STANDARD else forksafe).ThreadPoolExecutor(WORKERS)
numbers, numbers_lock = iter(range(MOST)), threading.Lock()  # two threads may get the same one without the GIL
over = threading.Event()
statuses: dict[str, int] = {}
statuses_lock = threading.Lock()


def task(number: int) -> int:
    done[number] += 1
    return number


def count(how: str) -> None:
    with statuses_lock:
        statuses[how] = statuses.get(how, 0) + 1


def be_the_child() -> int:
    """What a child does: use the executor; returns the status it is to end with."""
    signal.alarm(LIMIT)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    wanted = random.randrange(1, 100)
    values = [executor.submit(pow, 2, n) for n in range(20)]
    assert [each.result(LIMIT) for each in values] == [2**n for n in range(20)]
    return wanted


def wait_for(pid: int, reader: int, where: str) -> None:
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        wanted = pipe.read()
    assert wanted and os.waitstatus_to_exitcode(status) == int(wanted), (where, wanted, status)
    count(where)


def fork(where: str) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        wanted = be_the_child()
        os.write(writer, str(wanted).encode())
        os.close(writer)
        if where == "inside":
            sys.exit(wanted)  # in a task: it must not vanish into a future
        os._exit(wanted)
    os.close(writer)
    wait_for(pid, reader, where)


def submit_all_the_time() -> None:
    pending = []
    while not over.is_set():
        with numbers_lock:
            number = next(numbers)
        pending.append((number, executor.submit(task, number)))
        if len(pending) > 50:
            for number, future in pending:
                assert future.result(LIMIT) == number
            pending.clear()
            time.sleep(0.001)
    for number, future in pending:
        assert future.result(LIMIT) == number


def main() -> None:
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            submit_all_the_time()
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=guarded) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for _ in range(FORKS // 2):
        inside = executor.submit(fork, "inside")
        fork("outside")
        inside.result(2 * LIMIT)
        assert not failures, failures
    over.set()
    for thread in threads:
        thread.join()
    executor.shutdown()
    assert not failures, failures
    submitted = next(numbers)
    counts = memoryview(done)[:submitted]
    wrong = [(n, times) for n, times in enumerate(counts) if times != 1]
    counts.release()
    assert not wrong, wrong[:20]
    print(f"{submitted} tasks, each run once; children that ended as asked: {statuses}")
    assert sum(statuses.values()) == FORKS // 2 * 2


if __name__ == "__main__":
    main()
