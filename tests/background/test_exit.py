"""BackgroundThread at the interpreter's end: told to stop, and waited for no longer than was asked for."""

from __future__ import annotations

import pytest

from support.background import LIMIT
from support.programs import python, script, succeeds


def run(tmp_path, text):
    result = python("-W", "ignore::DeprecationWarning", script(tmp_path / "program.py", text), timeout=2 * LIMIT)
    output = succeeds(result)
    assert result.stderr == ""
    return output


PROGRAM = """
    import atexit, os, sys, threading, time
    from forksafe import BackgroundThread
    def loop(thread):
        thread.wait()
        print("loop flushes", flush=True)
    """


@pytest.mark.parametrize("daemon", [True, False])
def test_end_of_the_interpreter(tmp_path, daemon):
    """Idle ones are stopped; a loop can flush when it is told to, and atexit functions run later."""
    output = run(tmp_path, PROGRAM + f"""
    idle = BackgroundThread(print, interval=3600, daemon={daemon}, park_timeout=1000)
    loop = BackgroundThread(loop, daemon={daemon}, park_timeout=1000)
    idle.start(); loop.start()
    @atexit.register
    def at_exit():
        try:
            idle.start()
        except RuntimeError as error:
            print("is ending" if "is ending" in str(error) else error)
        print(idle.is_alive(), loop.is_alive())
    """)  # fmt: skip
    assert output == "loop flushes\nis ending\nFalse False\n"


def test_exit_standard_daemon(tmp_path):
    """Control: a daemon of threading is not told of the end."""
    output = run(tmp_path, PROGRAM + """
    class Control:
        wait = threading.Event().wait
    thread = threading.Thread(target=loop, args=(Control,), daemon=True)
    thread.start()
    atexit.register(lambda: print(thread.is_alive()))
    """)  # fmt: skip
    assert output == "True\n"


def test_one_that_is_stuck(tmp_path):
    """It is waited for as long as its park_timeout says; the next one is waited for all the same."""
    output = run(tmp_path, PROGRAM + """
    begun = threading.Event()
    def hang():
        begun.set()
        time.sleep(3600)
    stuck = BackgroundThread(hang, interval=0.001, park_timeout=0.1)
    loop = BackgroundThread(loop, park_timeout=1000)
    stuck.start(); loop.start()
    assert begun.wait(30)
    atexit.register(lambda: print(stuck.is_alive(), loop.is_alive()))
    """)  # fmt: skip
    assert output == "loop flushes\nTrue False\n"


def test_started_first_at_the_end(tmp_path):
    output = run(tmp_path, PROGRAM + """
    @atexit.register
    def at_exit():
        thread = BackgroundThread(loop)
        try:
            thread.start()
        except RuntimeError:
            print("cannot", thread.is_alive())
    """)  # fmt: skip
    assert output == "cannot False\n"


def test_end_of_a_child(tmp_path):
    """The child's own run is told and waited for, and nobody waits for the parent's."""
    output = run(tmp_path, PROGRAM + """
    loop = BackgroundThread(loop, daemon=False)
    idle = BackgroundThread(print, interval=3600, at_fork="stop", daemon=False)
    loop.start(); idle.start()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        sys.exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4
    print("child is gone", flush=True)
    """)  # fmt: skip
    assert output == "loop flushes\nchild is gone\nloop flushes\n"
