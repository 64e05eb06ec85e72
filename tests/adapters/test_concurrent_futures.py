"""protect() and install() for concurrent.futures' ThreadPoolExecutor; controls are in executors/test_thread.py, too."""

from __future__ import annotations

import concurrent.futures
import gc
import threading
import weakref
from concurrent.futures import as_completed, wait

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.executors import QUEUE, Blocked, program
from support.hangs import assert_child_hangs
from support.programs import python, script, succeeds


class Counting(concurrent.futures.ThreadPoolExecutor):
    """Whoever derives one has an executor, too."""


@pytest.fixture(params=[concurrent.futures.ThreadPoolExecutor, Counting])
def executor(request):
    with request.param(2) as executor:
        yield forksafe.protect(executor)


@pytest.fixture
def blocked(executor):
    blocked = Blocked(executor)
    yield blocked
    blocked.end()


def test_child_uses_it(executor, fork):
    def child():
        forksafe.generation()  # after a fork by C hooks run at the first call of forksafe
        return executor.submit(pow, 2, 6).result(10)

    assert executor.submit(pow, 2, 5).result(10) == 32
    assert run_in_child(child, fork=fork) == 64
    assert executor.submit(pow, 2, 7).result(10) == 128


def test_child_has_its_full_size(executor, blocked, fork):
    def child():
        forksafe.generation()
        together = threading.Barrier(2, timeout=5)
        futures = [executor.submit(together.wait) for _ in range(2)]
        return sorted(future.result(10) for future in futures), len(executor._threads)

    assert run_in_child(child, fork=fork) == ([0, 1], 2)


def test_grandchild(executor, blocked):
    def child():
        mine = executor.submit(threading.Event().wait, 30)

        def grandchild():
            assert isinstance(mine.exception(5), forksafe.InheritedFutureError)
            return executor.submit(pow, 2, 6).result(10)

        return run_in_child(grandchild), executor.submit(pow, 2, 7).result(10)

    assert run_in_child(child) == (64, 128)


def test_futures_of_the_parent_have_failed(executor, fork):
    done = executor.submit(pow, 2, 5)
    assert done.result(10) == 32
    blocked = Blocked(executor)
    called = []
    for future in blocked.all:
        future.add_done_callback(called.append)

    def child():
        forksafe.generation()
        assert done.result(0) == 32
        assert wait(blocked.all, 10).not_done == set()
        assert set(as_completed(blocked.all, 10)) == set(blocked.all)
        kinds = {type(future.exception(5)) for future in blocked.all}
        return kinds == {forksafe.InheritedFutureError}, called, blocked.ran

    assert run_in_child(child, fork=fork) == (True, [], [])
    assert not any(future.done() for future in blocked.all)
    blocked.end()
    executor.shutdown()
    assert len(called) == len(blocked.all)


def test_child_shuts_it_down_and_drops_it(fork):
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        forksafe.protect(executor)
        blocked = Blocked(executor)

        def child():
            forksafe.generation()
            with executor:
                pass
            with pytest.raises(RuntimeError, match="after shutdown"):
                executor.submit(pow, 2, 5)
            gc.collect()
            return executor._threads

        assert run_in_child(child, fork=fork) == set()
        assert not any(future.done() for future in blocked.all)
        blocked.end()


def test_unprotected_again():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        forksafe.unprotect(forksafe.protect(executor))
        executor.submit(pow, 2, 5).result(10)
        assert_child_hangs(lambda: executor.submit(pow, 2, 6).result(), "in result")


def test_fork_keeps_no_argument_alive(executor):
    """A fork asks their frames what they run; a task's arguments go when it is done, as ever."""

    class Argument:
        pass

    argument, go, inside = Argument(), threading.Event(), threading.Event()
    reference = weakref.ref(argument)
    future = executor.submit(lambda _: (inside.set(), go.wait(10)), argument)
    assert inside.wait(10)
    assert run_in_child(lambda: executor.submit(pow, 2, 6).result(10)) == 64
    go.set()
    future.result(10)
    del argument, future
    executor.submit(pow, 2, 5).result(10)
    executor.submit(pow, 2, 5).result(10)
    gc.collect()
    assert reference() is None


def test_forksafes_own_needs_nothing():
    with forksafe.ThreadPoolExecutor(1) as executor:
        assert forksafe.protect(executor) is executor
        assert run_in_child(lambda: executor.submit(pow, 2, 6).result(10)) == 64


# A task forks, under protect() and under install()

CURES = {
    "protect": "executor = forksafe.protect(ThreadPoolExecutor({size}))",
    "install": "forksafe.install(); executor = ThreadPoolExecutor({size})",
    "install later": "executor.submit(pow, 2, 5).result(10); forksafe.install()",
}
OTHERS = [f"other {n} parent" for n in range(3)]
ENDS = {
    "pass": (0, ["task child"]),
    "sys.exit(7)": (7, []),
    "1 / 0": (1, []),
    "note(executor.submit(pow, 2, 5).result(10)); sys.exit(5)": (5, ["32 child"]),
}


@pytest.mark.parametrize("cure", CURES)
@pytest.mark.parametrize("child", ENDS)
def test_task_forks(tmp_path, child, cure):
    """The child of a task ends as the task does."""
    status, noted = ENDS[child]
    noted = sorted([*OTHERS, "task parent", *noted])
    path = program(
        tmp_path, CURES[cure] + QUEUE, module="concurrent.futures", child=child, status=status, noted=noted
    )  # fmt: skip
    result = python(path)
    succeeds(result)
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n") if child == "1 / 0" else not result.stderr


UNMODIFIED = """
import os, sys, time
{imports}
executor = {make}
assert executor.submit(pow, 2, 5).result() == 32
time.sleep(0.05)  # its thread is idle again, so that the standard one starts no other
pid = os.fork()
if pid == 0:
    sys.exit(7 if executor.submit(pow, 2, 6).result(20) == 64 else 3)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 7
assert executor.submit(pow, 2, 7).result() == 128
print("OK")
"""
PROGRAMS = {
    "by its name": ("from concurrent.futures import ThreadPoolExecutor", "ThreadPoolExecutor(2)"),
    "by the package": ("import concurrent.futures", "concurrent.futures.ThreadPoolExecutor(2)"),
    "derived": (
        "import concurrent.futures\nclass Own(concurrent.futures.ThreadPoolExecutor): pass",
        "Own(2)",
    ),
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_unmodified_programs(tmp_path, how):
    imports, make = PROGRAMS[how]
    path = script(tmp_path / "program.py", UNMODIFIED.format(imports=imports, make=make))
    assert succeeds(python("-m", "forksafe", "run", path)) == "OK\n"
    hanging = UNMODIFIED.replace("result(20)", "result(1)").format(imports=imports, make=make)
    assert python("-W", "ignore", script(tmp_path / "control.py", hanging)).returncode == 1


def test_class_after_uninstall():
    succeeds(python("-c", """if True:
        import concurrent.futures, sys
        before = vars(concurrent.futures.ThreadPoolExecutor)["__init__"]
        import forksafe
        forksafe.install()
        from forksafe.patching.install import report
        assert "concurrent.futures.thread.ThreadPoolExecutor" in report().watched
        assert vars(concurrent.futures.ThreadPoolExecutor)["__init__"] is not before
        forksafe.uninstall()
        assert vars(concurrent.futures.ThreadPoolExecutor)["__init__"] is before
    """))  # fmt: skip
