"""Forks from within an executor's threads: the child goes on with what forked and does nothing else."""

from __future__ import annotations

import sys

import pytest

from support.executors import QUEUE, program
from support.forks import FORKS
from support.programs import python, script, succeeds

OTHERS = [f"other {n} parent" for n in range(3)]
ENDS = {
    "returns": ("pass", 0, ["task child"]),
    "sys.exit()": ("sys.exit()", 0, []),
    "sys.exit(7)": ("sys.exit(7)", 7, []),
    "sys.exit(text)": ("sys.exit('because')", 1, []),
    "an exception": ("1 / 0", 1, []),
    "os._exit": ("os._exit(9)", 9, []),
    "uses it": ("note(executor.submit(pow, 2, 5).result(10)); sys.exit(5)", 5, ["32 child"]),
    "a thread of its own": (
        "threading.Thread(target=lambda: (time.sleep(0.3), note('late'))).start(); sys.exit(6)",
        6,
        ["late child"],
    ),
    "an executor of its own": (
        "E = forksafe.ThreadPoolExecutor(1); E.submit(lambda: (time.sleep(0.3), note('late'))); sys.exit(6)",
        6,
        ["late child"],
    ),
    "another fork": ("pid = os.fork(); pid or sys.exit(4); sys.exit(wait_for(pid) + 1)", 5, []),
}


@pytest.mark.parametrize("how", list(ENDS))
def test_child_status(tmp_path, how):
    """The child of a task ends as the task does."""
    child, status, noted = ENDS[how]
    result = python(
        program(tmp_path, QUEUE, child=child, status=status, noted=sorted([*OTHERS, "task parent", *noted]))
    )
    succeeds(result)
    expected = {"sys.exit(text)": "because\n", "an exception": "ZeroDivisionError: division by zero\n"}
    assert result.stderr.endswith(expected.get(how, ""))
    assert how in expected or result.stderr == ""


@pytest.mark.parametrize("fork", [name for name in FORKS if name != "os.fork"])
def test_in_every_way_to_fork(tmp_path, fork):
    child, status, noted = ENDS["sys.exit(7)"]
    succeeds(python(program(
        tmp_path, QUEUE, fork=fork, child=child, status=status, noted=sorted([*OTHERS, "task parent", *noted])
    )))  # fmt: skip


def test_control_standard_status(tmp_path):
    """The negative control: the standard executor does the parent's work again and loses the status."""
    result = python(program(
        tmp_path, QUEUE, module="concurrent.futures", limit=2, child="sys.exit(7)", status=7, noted=[]
    ))  # fmt: skip
    assert result.returncode == 1
    assert "AssertionError: hung" in result.stderr or "AssertionError: 0" in result.stderr
    result = python(program(
        tmp_path, QUEUE.replace("assert status", "print(noted()); assert status"), module="concurrent.futures",
        limit=2, child="sys.exit(7)", status="hung", noted=[],
    ))  # fmt: skip
    assert "other 0 child" in result.stdout


def test_child_atexit(tmp_path):
    """What the program does at its end is done in the child."""
    text = """
def task():
    pid = os.fork()
    if pid == 0:
        sys.stdout.write("written in the child\\n")
        sys.exit(3)
    return wait_for(pid)

atexit.register(lambda: print("at exit of the", "parent" if os.getpid() == parent else "child"))
print("before")
sys.stdout.flush()
assert executor.submit(task).result(15) == 3
"""
    lines = succeeds(python(program(tmp_path, text))).splitlines()
    assert lines == ["before", "written in the child", "at exit of the child", "at exit of the parent"]


PLACES = {
    "initializer": """
executor = ThreadPoolExecutor(1, initializer=forks)
executor.submit(note, "task").result(10)
""",
    "initializer that forks late": """
executor = ThreadPoolExecutor(1, initializer=lambda: (executor.submit(note, "queued"), forks()))
executor.submit(note, "task").result(10)
""",
    "callback": """
future = executor.submit(threading.Event().wait, 0.2)
future.add_done_callback(lambda _: forks())
future.add_done_callback(lambda _: note("second callback"))
executor.submit(note, "task").result(10)
""",
    "callback added late": """
future = executor.submit(pow, 2, 5)
future.result(10)
future.add_done_callback(lambda _: forks())
executor.submit(note, "task").result(10)
""",
    "a hook before forks": """
def once():
    registration.unregister()
    forks()
registration = forksafe.register_at_fork(before=once)
forks()
executor.submit(note, "task").result(10)
""",
    "a hook in the parent": """
def once():
    registration.unregister()
    forks()
registration = forksafe.register_at_fork(after_in_parent=once)
forks()
executor.submit(note, "task").result(10)
""",
    "a hook in the child": """
def once():
    registration.unregister()
    pid = os.fork()
    if pid == 0:
        executor.submit(note, "grandchild").result(10)
        os._exit(0)
    assert wait_for(pid) == 0
registration = forksafe.register_at_fork(after_in_child=once)
forks()
executor.submit(note, "task").result(10)
""",
    "an atexit function": """
executor.submit(note, "task").result(10)
atexit.register(forks)
""",
    "shutdown": """
executor.submit(lambda: (time.sleep(0.3), forks()))
executor.submit(note, "task")
executor.shutdown()
""",
    "shutdown without waiting": """
executor.submit(lambda: (time.sleep(0.3), forks()))
executor.submit(note, "task")
executor.shutdown(wait=False)
""",
    "the end of the interpreter": """
executor.submit(lambda: (time.sleep(0.3), forks()))
executor.submit(note, "task")
""",
    "an asyncio loop's executor": """
async def main():
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    await loop.run_in_executor(None, forks)
    await asyncio.to_thread(note, "task")
asyncio.run(main())
""",
    "map": """
list(executor.map(lambda n: forks() if n == 1 else note("task"), range(3)))
""",
}
AT_THE_END = ("an atexit function", "shutdown without waiting", "the end of the interpreter")
FORK_AT = """
def forks():
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        note("forked")
        {child}
    else:
        status = wait_for(pid)
        note(f"status {{status}}")
"""


@pytest.mark.parametrize("child", ["sys.exit(7)", "os._exit(7)"])
@pytest.mark.parametrize("where", list(PLACES))
def test_fork_inside_everything(tmp_path, where, child):
    """Whatever forks: the parent's work is done once, in the parent, and the child ends with the status it gives."""
    if sys.version_info[:2] == (3, 12) and where in AT_THE_END:
        pytest.skip("this version refuses to fork at the end of the interpreter")
    path = program(tmp_path, FORK_AT + PLACES[where], child=child)
    source = open(path).read().replace("ran = os.pipe()", 'ran = None, os.open("noted", os.O_CREAT | os.O_WRONLY)')
    open(path, "w").write(source)
    result = python(path, cwd=tmp_path)
    lines = (tmp_path / "noted").read_text().splitlines()
    assert "forked child" in lines
    # The interpreter reports what a hook or an atexit function raises, SystemExit too: then the child goes on.
    goes_on = child == "sys.exit(7)" and where.startswith(("a hook", "an atexit"))
    if not goes_on:
        succeeds(result)
        assert "status 7 parent" in lines
        assert not {"task child", "queued child", "second callback child"} & set(lines)
    assert not any("hung" in line for line in lines)
    assert [line for line in lines if line == "task parent"] == ["task parent"] * (2 if where == "map" else 1)


@pytest.mark.parametrize("order", ["before", "after"])
def test_threads_fork_at_once(tmp_path, order):
    """A thread that has that lock is not to wait for another's fork, which waits for it in a hook."""
    imports = ["import concurrent.futures.thread", "import forksafe"]
    lines = imports if order == "before" else imports[::-1]
    succeeds(python(script(tmp_path / "program.py", "\n".join(lines) + """
import logging, os, sys, threading, time
lock = forksafe.Lock(hold=True)
ran = {"before": 0, "after_in_parent": 0, "after_in_child": 0}
def count(when):
    ran[when] += 1
for when in ran:
    forksafe.register_at_fork(**{when: lambda when=when: count(when)})
def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(ran["after_in_child"] + 4 * lock.locked())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
fork()
sys.setswitchinterval(1e-5)
longest = [0.0] * 3
def forks(n):
    for _ in range(60):
        start = time.monotonic()
        fork()
        longest[n] = max(longest[n], time.monotonic() - start)
        time.sleep(0.001)
threads = [threading.Thread(target=forks, args=(n,)) for n in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert ran == {"before": 181, "after_in_parent": 181, "after_in_child": 0}, ran
assert max(longest) < 9, longest
assert not concurrent.futures.thread._global_shutdown_lock.locked()
"""), timeout=100))  # fmt: skip


@pytest.mark.parametrize("order", ["before", "after"])
def test_hook_forks(tmp_path, order):
    """concurrent.futures.thread holds a lock across each fork, and hooks of ours run while it does."""
    imports = ["import concurrent.futures.thread", "import forksafe"]
    lines = imports if order == "before" else imports[::-1]
    succeeds(python(script(tmp_path / "program.py", "\n".join(lines) + """
import os
forked = []
def forks():
    registration.unregister()
    forked.append(os.fork())
    if forked == [0]:
        os._exit(5)
def in_a_child(status, pid):
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    return pid
for when in ("before", "after_in_parent", "after_in_child"):
    registration = forksafe.register_at_fork(**{when: forks})
    if not in_a_child(6, os.fork()):
        if when == "after_in_child":
            in_a_child(5, forked[0])
        from concurrent.futures import ThreadPoolExecutor
        assert ThreadPoolExecutor(1).submit(pow, 2, 5).result(10) == 32
        os._exit(6)
    if when != "after_in_child":
        in_a_child(5, forked.pop())
    assert not concurrent.futures.thread._global_shutdown_lock.locked()
""")))  # fmt: skip
