"""What processes run that the tests start.

They import it by name, which they cannot do with test modules: pytest imports these by path.
"""

from __future__ import annotations

import concurrent.futures
import os
import threading

from forksafe.executors.process import ProcessPoolExecutor
from forksafe.testing import run_in_child
from support.processes import (
    CONTEXT,
    LIMIT,
    _worker,
    prepare,
)

lock = threading.Lock()


def take_lock(connection):
    with lock:
        connection.send(os.getpid())


def square(number):
    return number * number


def use_everything(queue, simple, joinable, event, barrier, condition, semaphore, bounded, value, array, shared):
    with condition, semaphore, bounded:
        value.value += 1
        array[0] += 1
        shared["pid"] = os.getpid()
    queue.put(os.getpid())
    simple.put(os.getpid())
    joinable.get()
    joinable.task_done()
    event.set()
    barrier.wait(LIMIT)


def use_context():
    with CONTEXT.Manager() as manager:
        shared, joinable = manager.dict(), CONTEXT.JoinableQueue()
        queue, simple, event, barrier = CONTEXT.Queue(), CONTEXT.SimpleQueue(), CONTEXT.Event(), CONTEXT.Barrier(2)
        value, array = CONTEXT.Value("i", 1), CONTEXT.Array("i", [1, 2])
        locks = CONTEXT.Condition(CONTEXT.RLock()), CONTEXT.Semaphore(1), CONTEXT.BoundedSemaphore(1)
        everything = (queue, simple, joinable, event, barrier, *locks, value, array, shared)
        process = CONTEXT.Process(target=use_everything, args=everything)
        joinable.put(1)
        process.start()
        assert queue.get(timeout=LIMIT) == simple.get() == process.pid
        assert event.wait(LIMIT)
        joinable.join()
        barrier.wait(LIMIT)
        process.join(LIMIT)
        assert (process.exitcode, value.value, array[0], shared["pid"]) == (0, 2, 2, process.pid)
        queue.close()
        queue.join_thread()
    with CONTEXT.Pool(2) as pool:
        assert pool.map(square, range(5)) == [0, 1, 4, 9, 16]
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=CONTEXT) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]


def hold(connection, given):
    with given:
        connection.send("held")


# Daemonic processes have children


def have_children(connection, context):
    try:
        process = context.Process(target=int)
        process.start()
        process.join(LIMIT)
        connection.send(process.exitcode)
    except AssertionError as error:
        connection.send(str(error))


def start_one(_):
    process = CONTEXT.Process(target=int)
    process.start()
    process.join(LIMIT)
    return process.exitcode


def use_a_pool(connection):
    with ProcessPoolExecutor(1) as executor:
        connection.send(executor.submit(pow, 2, 6).result(LIMIT))


def fork_and_prepare():
    prepare(told=run_in_child(lambda: os.getppid(), LIMIT))


def told():
    return _worker["told"] == os.getpid()
