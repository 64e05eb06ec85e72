"""protect() for process pools and ThreadPool: how children end, and those whose tasks or callbacks forked."""

from __future__ import annotations

import pytest

from support.forks import FORKS, skip_without_the_gil
from support.programs import python, script, succeeds

LIMIT = 30


# The child's exit

EXIT = """
import concurrent.futures, ctypes, multiprocessing, multiprocessing.pool, os, signal, sys, warnings
warnings.simplefilter("ignore")
import forksafe
libc = ctypes.PyDLL(None)
context = multiprocessing.get_context("fork")
pool = context.Pool(2)
executor = concurrent.futures.ProcessPoolExecutor(2, mp_context=context)
if {protected}:
    forksafe.protect(pool), forksafe.protect(executor)
pool.map(abs, range(2))
workers = {{each.pid for each in pool._pool}}
executor.submit(pow, 2, 5).result({limit})
sys.stderr.flush()
read, write = os.pipe()
if {fork!r} != "os.fork":
    sys.setswitchinterval(100)
pid = os.fork() if {fork!r} == "os.fork" else libc.fork()
if pid == 0:
    os.close(read)
    os.dup2(write, 2)
    signal.alarm({alarm})
    sys.exit(7)
os.close(write)
sys.setswitchinterval(0.005)
said = open(read).read()
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
alive = set(each.pid for each in pool._pool) == workers and all(each.is_alive() for each in pool._pool)
if {protected}:
    assert executor.submit(pow, 2, 6).result({limit}) == pool.apply(pow, (2, 6)) == 64
    executor.shutdown()
    pool.terminate()
print(status, alive, "AssertionError" in said, said if {protected} else "", flush=True)
def replaces_none():
    raise OSError("a pool is to replace none of those that are killed here")
os.fork = replaces_none
while multiprocessing.active_children():
    for each in multiprocessing.active_children():
        each.kill()
os._exit(0)
"""


@pytest.mark.parametrize("how", ["os.fork", "C fork"])
def test_child_exits(tmp_path, how):
    """It leaves the workers alone."""
    if how not in FORKS:
        pytest.skip("forks by C are not tested here")
    skip_without_the_gil(how)
    path = script(tmp_path / "program.py", EXIT.format(protected=True, limit=LIMIT, alarm=LIMIT, fork=how))
    assert succeeds(python(path, timeout=2 * LIMIT)).split() == ["7", "True", "False"]


def test_child_exits_unprotected(tmp_path):
    """The control: it harms the workers."""
    path = script(tmp_path / "program.py", EXIT.format(protected=False, limit=LIMIT, alarm=LIMIT, fork="os.fork"))
    _, alive, asserted = succeeds(python(path, timeout=2 * LIMIT)).split()
    assert alive == "False" or asserted == "True"


# A task or a callback forks

FORKING = """
import concurrent.futures, multiprocessing, multiprocessing.pool, os, signal, sys, threading, warnings
warnings.simplefilter("ignore")
import forksafe
ran = os.pipe()
parent = os.getpid()

def task(*arguments):
    forked = os.fork()
    if forked == 0:
        signal.alarm({limit})
        os.write(ran[1], b"child\\n")
        {child}
    else:
        answers.put(forked)

import queue
answers = queue.Queue()
{start}
status = os.waitstatus_to_exitcode(os.waitpid(answers.get(timeout={limit}), 0)[1])
{finish}
assert os.read(ran[0], 1000) == b"child\\n"
assert status == {status}, status
print("OK", flush=True)
os._exit(0)
"""
STARTS = {
    "ThreadPool's task": (
        "pool = forksafe.protect(multiprocessing.pool.ThreadPool(1)); result = pool.apply_async(task)",
        "result.get({limit}); assert pool.apply(pow, (2, 5)) == 32; pool.terminate()",
    ),
    "ThreadPool's callback": (
        (
            "pool = forksafe.protect(multiprocessing.pool.ThreadPool(1)); "
            "result = pool.apply_async(pow, (2, 5), callback=task)"
        ),
        "assert result.get({limit}) == 32; assert pool.apply(pow, (2, 5)) == 32; pool.terminate()",
    ),
    "Pool's callback": (
        (
            "pool = forksafe.protect(multiprocessing.get_context('fork').Pool(1)); "
            "result = pool.apply_async(pow, (2, 5), callback=task)"
        ),
        "assert result.get({limit}) == 32; assert pool.apply(pow, (2, 5)) == 32; pool.terminate()",
    ),
    "executor's callback": (
        (
            "context = multiprocessing.get_context('fork'); "
            "executor = forksafe.protect(concurrent.futures.ProcessPoolExecutor(1, context)); "
            "gate = os.pipe(); future = executor.submit(os.read, gate[0], 1); "  # were it done, it would be called here
            "future.add_done_callback(task); os.write(gate[1], b'x')"
        ),
        (
            "assert future.result({limit}) == b'x'; "
            "assert executor.submit(pow, 2, 5).result({limit}) == 32; executor.shutdown()"
        ),
    ),
}
CHILDREN = {"pass": 0, "sys.exit(7)": 7, "1 / 0": 1}


@pytest.mark.parametrize("what", STARTS)
@pytest.mark.parametrize("child", CHILDREN)
def test_task_or_callback_forks(tmp_path, what, child):
    """The child ends as the task or callback does."""
    start, finish = (text.format(limit=LIMIT) for text in STARTS[what])
    status = CHILDREN[child]
    if what == "executor's callback" and child == "1 / 0":
        status = 0  # concurrent.futures logs what callbacks raise, in the parent too
    path = script(
        tmp_path / "program.py", FORKING.format(limit=LIMIT, child=child, start=start, finish=finish, status=status)
    )
    assert succeeds(python(path, timeout=2 * LIMIT)) == "OK\n"
