"""ProcessPoolExecutor when processes end: what a child's end leaves alone, and what the owner's end takes along.

Programs, each with the standard executor as the control where that does something else.
"""

from __future__ import annotations

import textwrap

import pytest

from support.forks import FREE_THREADED, SYS_CLONE
from support.processes import HEADER, linux, run_program
from support.programs import hangs, script, succeeds

PRELUDE = f"""
import atexit, gc, pathlib, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks among threads
import concurrent.futures
from forksafe.executors.process import ProcessPoolExecutor
from concurrent.futures import ProcessPoolExecutor as Standard

def forks():
    libc = ctypes.PyDLL(None)
    return {{
        "os.fork": os.fork, "C fork": libc.fork, "_Fork": getattr(libc, "_Fork", None),
        "raw clone": lambda: libc.syscall({SYS_CLONE}, signal.SIGCHLD, 0, 0, 0, 0),
    }}

def status_of(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def nap():
    time.sleep(200)
"""


def run(tmp_path, text):
    return run_program(tmp_path, PRELUDE + textwrap.dedent(text))


# A child that merely exits

EXITS = """
if __name__ == "__main__":
    executor = {executor}(2)
    assert executor.submit(pow, 2, 5).result(LIMIT) == 32
    processes = dict(executor._processes)
    fork = forks()[{fork!r}]
    if fork is not os.fork:
        sys.setswitchinterval(100)
        time.sleep(0.02)
    pid = fork()
    if pid == 0:
        {child}
        sys.exit(3)
    assert status_of(pid) == {status}
    assert executor.submit(pow, 2, 6).result(LIMIT) == 64
    assert dict(executor._processes).items() >= processes.items()
    assert all(is_alive(each) for each in processes)
    executor.shutdown()
    assert [each.exitcode for each in processes.values()] == [0] * len(processes)
    print("done")
"""
CHILDREN = {
    "nothing": "pass",
    "a shutdown": "executor.shutdown()",
    "a use": "assert executor.submit(pow, 2, 7).result(LIMIT) == 128",
    "a collection": "del executor; gc.collect()",
}


@linux
@pytest.mark.parametrize("child", list(CHILDREN))
def test_a_child_that_exits(tmp_path, child, fork_name):
    text = EXITS.format(executor="ProcessPoolExecutor", fork=fork_name, child=CHILDREN[child], status=3)
    result = run(tmp_path, text)
    assert succeeds(result) == "done\n"
    assert result.stderr == ""


@linux
def test_control_standard_trips(tmp_path):
    """The negative control: a child of the standard executor's owner trips at its exit."""
    result = run(tmp_path, EXITS.format(executor="Standard", fork="os.fork", child="pass", status=3))
    assert "can only join a child process" in result.stderr or "can only test a child process" in result.stderr


def test_control_standard_hangs(tmp_path):
    """The negative control: a child that uses the standard executor hangs."""
    child = "executor.submit(pow, 2, 7).result()"
    text = EXITS.format(executor="Standard", fork="os.fork", child=child, status=3)
    assert hangs(script(tmp_path / "program.py", HEADER + PRELUDE + text), timeout=3)


# Forks in places where few expect them

CALLBACK = """
if __name__ == "__main__":
    pids, called = [], threading.Event()
    atexit.register(lambda: print("ends", "parent" if os.getpid() == parent else "child", flush=True))
    parent = os.getpid()

    def fork(future):
        assert future.result(0) == "done"
        pids.append(os.fork())
        if pids[0] == 0:
            signal.alarm(50)
            {child}
        else:
            called.set()

    executor = ProcessPoolExecutor(1)
    gate = pathlib.Path(__file__ + ".gate")  # were it done already, the callback would be called here
    os.mkfifo(gate)
    future = executor.submit(gate.read_text)
    future.add_done_callback(fork)
    gate.write_text("done")
    assert called.wait(LIMIT)
    print("status", status_of(pids[0]), flush=True)
    assert executor.submit(pow, 2, 6).result(LIMIT) == 64
    executor.shutdown()
"""
IN_CALLBACK = {
    "returns": ("pass", 0),
    "exits": ("sys.exit(5)", 5),
    "uses it": ("assert executor.submit(pow, 2, 7).result(LIMIT) == 128; sys.exit(6)", 6),
}


@linux
@pytest.mark.parametrize("what", list(IN_CALLBACK))
def test_a_fork_in_a_done_callback(tmp_path, what):
    """The child has nothing to return to, and ends as a program ends."""
    child, status = IN_CALLBACK[what]
    result = run(tmp_path, CALLBACK.format(child=child))
    assert succeeds(result).splitlines() == ["ends child", f"status {status}", "ends parent"]
    assert result.stderr == ""


AT_EXIT = """
if __name__ == "__main__":
    executor = ProcessPoolExecutor(1)
    owner = os.getpid()

    def fork():
        if os.getpid() != owner:
            return  # a worker that was forked has inherited threading's exit functions
        pid = forks()["os.fork" if sys.version_info < (3, 12) else "C fork"]()
        if pid == 0:
            signal.alarm(50)
            return
        print("status", status_of(pid), flush=True)

    {register}(fork)
    assert executor.submit(pow, 2, 5).result(LIMIT) == 32
    print("used", flush=True)
"""


@pytest.mark.parametrize("register", ["atexit.register", "threading._register_atexit"])
def test_a_fork_at_exit(tmp_path, register):
    """Before or after the standard library has ended the workers: the child ends, too.

    From CPython 3.12 on os.fork refuses to fork by then.
    """
    if FREE_THREADED and register == "threading._register_atexit":
        pytest.skip("without the GIL the executor's thread may have a lock of the interpreter's own at any moment")
    result = run(tmp_path, AT_EXIT.format(register=register))
    assert succeeds(result).splitlines() == ["used", "status 0"]
    assert result.stderr == ""


# The owner ends

OWNER = """
def own(connection):
    executor = {executor}(2)
    executor.submit(pow, 2, 5).result(LIMIT)
    if {busy}:
        executor.submit(nap)
    connection.send(list(executor._processes))
    time.sleep(200)

if __name__ == "__main__":
    reader, writer = multiprocessing.Pipe(False)
    pid = os.fork()
    if pid == 0:
        own(writer)
    assert reader.poll(LIMIT)
    workers = reader.recv()
    assert workers and all(map(is_alive, workers))
    os.kill(pid, signal.SIGKILL)
    assert status_of(pid) == -signal.SIGKILL
    if {outlives}:
        time.sleep(0.3)
    lives = [is_alive(each) if {outlives} else not ends(each) for each in workers]
    for each in workers:
        if is_alive(each):
            os.kill(each, signal.SIGKILL)
    print(any(lives))
"""


@linux
@pytest.mark.parametrize("busy", [False, True])
def test_owner_killed(tmp_path, busy):
    """Workers do not outlive an owner that is killed."""
    text = OWNER.format(executor="ProcessPoolExecutor", busy=busy, outlives=False)
    assert succeeds(run(tmp_path, text)) == "False\n"


@linux
def test_control_owner_killed(tmp_path):
    """The negative control: workers of the standard executor outlive their owner."""
    text = OWNER.format(executor="Standard", busy=True, outlives=True)
    assert succeeds(run(tmp_path, text)) == "True\n"
