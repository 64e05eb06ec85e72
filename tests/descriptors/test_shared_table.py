"""close_on_fork(): children that share the parent's descriptors, or that exec at once."""

from __future__ import annotations

import _thread
import os
import signal

import pytest

import forksafe
from forksafe import testing
from forksafe_core import atfork
from support.descriptors import use_socket
from support.forks import SYS_CLONE, _libc
from support.programs import python, script, succeeds

CLONE_FILES = 0x400


def with_a_shared_table(check):
    """check() in a child of clone(CLONE_FILES). run_in_child() is not for that: the parent closes its end there too."""
    pid = int(_libc.syscall(SYS_CLONE, signal.SIGCHLD | CLONE_FILES, 0, 0, 0, 0))
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 2
        finally:
            os._exit(status)
    assert testing._reap(pid, 10) == 0


@pytest.mark.skipif(not SYS_CLONE, reason="no raw clone on this platform")
def test_shared_table_is_left(pair):
    """clone(CLONE_FILES): the child takes a table of its own first, and only its tombstones are in it."""
    a, b = pair
    forksafe.close_on_fork(a)

    def check():
        forksafe.generation()
        return use_socket(a) == ("EPIPE", b"") and atfork.state()["left_shared"] == 0

    with_a_shared_table(check)
    a.send(b"the parent's")
    assert b.recv(99) == b"the parent's"


@pytest.mark.skipif(not SYS_CLONE, reason="no raw clone on this platform")
def test_shared_table_with_thread(pair):
    """A child with a second thread cannot leave a table it shares: the parent's descriptor must survive."""
    a, b = pair
    forksafe.close_on_fork(a)

    def check():
        wait = _thread.allocate_lock()
        wait.acquire()
        _thread.start_new_thread(wait.acquire, ())  # before anything of forksafe notices the fork
        forksafe.generation()
        return atfork.state()["left_shared"] == 1 and a.send(b"shared") == 6

    with_a_shared_table(check)
    a.send(b" and alive")
    assert b.recv(99) == b"shared and alive"


def test_subprocess(tmp_path):
    """vfork: as without flags. preexec_fn: dead there and in the program, also when it is passed on."""
    program = script(
        tmp_path / "program.py",
        """
        import os, socket, subprocess, sys, forksafe
        a, b = socket.socketpair()
        b.settimeout(5)
        forksafe.close_on_fork(a)
        writes = "import os, sys; os.write(int(sys.argv[1]), b'program')"
        def run(**more):
            return subprocess.run([sys.executable, "-c", writes, str(a.fileno())], pass_fds=[a.fileno()], timeout=20,
                                  stderr=subprocess.PIPE, text=True, **more)
        assert run().returncode == 0
        assert b.recv(99) == b"program"
        seen = []
        def look():
            try:
                a.send(b"preexec")
            except BrokenPipeError:
                os.write(1, b"dead ")
        done = run(preexec_fn=look)
        assert done.returncode == 1 and "Broken" in done.stderr, done
        if os.getuid() == 0:
            done = run(user=os.getuid())
            assert done.returncode == 1 and "Broken" in done.stderr, done
        a.send(b"parent")
        print(b.recv(99).decode())
    """,
    )
    assert succeeds(python(program)) == "dead parent\n"


def test_flagged_socket_at_exit(tmp_path):
    """A child that exits with inherited, flagged sockets prints nothing and ends well."""
    program = script(
        tmp_path / "program.py",
        """
        import os, socket, sys, forksafe
        a, b = socket.socketpair()
        file = forksafe.close_on_fork(a).makefile("rwb")
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """,
    )
    result = python(program)
    assert succeeds(result) == "7\n"
    assert result.stderr == "" or "DeprecationWarning" in result.stderr
