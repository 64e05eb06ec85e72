"""Programs under install(), and without it."""

from __future__ import annotations

from support.programs import python

PRELUDE = """
import os, sys, threading, time

def in_child(fn, seconds=5):
    pid = os.fork()
    if pid == 0:
        try:
            ok = fn()
            os._exit(0 if ok or ok is None else 3)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(4)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0, os.waitstatus_to_exitcode(status)
            return
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    sys.stderr.write("the child hung\\n")
    os._exit(1)

def held(lock):
    inside = threading.Event()
    def hold():
        lock.acquire()
        inside.set()
        time.sleep(60)
    threading.Thread(target=hold, daemon=True).start()
    assert inside.wait(5)
"""

INSTALL = "import forksafe; forksafe.install()\n"


def run(tmp_path, text, install=INSTALL, **more):
    import textwrap

    path = tmp_path / "program.py"
    path.write_text(install + PRELUDE + textwrap.dedent(text))
    return python(str(path), **more)
