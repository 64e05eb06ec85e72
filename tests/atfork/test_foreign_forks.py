"""The child of a fork made by C ends, although the parent has threads that are no daemons."""

from __future__ import annotations

import pytest

from support.forks import FORKS, SYS_CLONE
from support.programs import python, script, succeeds

PROGRAM = """
import ctypes, os, signal, sys, threading, time
libc = ctypes.PyDLL(None)
fork = {{
    "os.fork": os.fork, "C fork": libc.fork, "_Fork": getattr(libc, "_Fork", None),
    "raw clone": lambda: libc.syscall({clone}, signal.SIGCHLD, 0, 0, 0, 0),
}}[{fork!r}]
sys.setswitchinterval(100)  # nobody asks for the GIL while it is forked
go = threading.Event()
thread = threading.Thread(target=go.wait, args=(60,))
thread.start()
time.sleep(0.1)

def main():
    {who}

def child():
    signal.alarm({alarm})
    {first}
    mine = threading.Thread(target=lambda: (time.sleep(0.2), os.write(1, b"waited for\\n")))
    mine.start()
    sys.exit(7)

def forks():
    pid = fork()
    if pid == 0:
        child()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    go.set()

main()
"""


def run(tmp_path, fork, who="forks()", first="import forksafe; forksafe.generation()", alarm=20):
    path = script(
        tmp_path / "program.py", PROGRAM.format(fork=fork, clone=SYS_CLONE, who=who, first=first, alarm=alarm)
    )
    return python("-W", "ignore", "-c", f"import forksafe; exec(open({path!r}).read())")


@pytest.mark.parametrize("fork", FORKS)
def test_it_ends_and_waits_for_its_own(tmp_path, fork):
    assert succeeds(run(tmp_path, fork)) == "waited for\n7\n"


@pytest.mark.skipif("C fork" not in FORKS, reason="forks by C are not tested here")
def test_foreign_fork_no_call(tmp_path):
    """Then nothing can find out before threading waits."""
    assert succeeds(run(tmp_path, "C fork", first="pass", alarm=4)).endswith("-14\n")
