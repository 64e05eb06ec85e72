"""What a forked child leaves alone: its parent's processes, their exit statuses, its parent's forkserver."""

from __future__ import annotations

from multiprocessing.resource_tracker import ResourceTracker

import pytest

from support.forks import SYS_CLONE
from support.processes import METHODS, linux, run_program
from support.programs import hangs, python, script, succeeds

CHILD_EXITS = """
def leaf(connection):
    connection.send(os.getpid())
    time.sleep(200)

if __name__ == "__main__":
    {forced}
    reader, writer = multiprocessing.Pipe(False)
    process = {context}.Process(target=leaf, args=(writer,), daemon={daemon})
    process.start()
    pid = reader.recv()
    child = os.fork()
    if not child:
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    print("ended" if {ends} and ends(pid) or not is_alive(pid) else "lives")
    process.kill()
    process.join()
"""


@linux
@pytest.mark.parametrize("daemon", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_child_that_exits(tmp_path, method, daemon):
    text = CHILD_EXITS.format(context="context", daemon=daemon, forced=f"forced({method!r})", ends=False)
    result = run_program(tmp_path, text)
    assert succeeds(result) == "lives\n" and result.stderr == ""


@linux
@pytest.mark.parametrize("daemon", [True, False])
def test_control_a_child_that_exits(tmp_path, daemon):
    """It ends the daemonic ones of its parent, and trips over the others."""
    text = CHILD_EXITS.format(context="multiprocessing.get_context('fork')", daemon=daemon, forced="pass", ends=daemon)
    result = run_program(tmp_path, text)
    assert result.stdout == ("ended\n" if daemon else "lives\n")
    assert "can only join a child process" in result.stderr


STATUS = """
def leaf():
    sys.exit(7)

if __name__ == "__main__":
    {forced}
    process = {context}.Process(target=leaf)
    process.start()
    assert multiprocessing.connection.wait([process.sentinel], LIMIT)
    child = os.fork()
    if not child:
        multiprocessing.active_children()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("name", ["forksafe", "the control"])
def test_exit_status_in_child(tmp_path, name):
    """A forkserver sends it through a pipe, once."""
    context = "context" if name == "forksafe" else "multiprocessing.get_context('forkserver')"
    text = "import multiprocessing.connection\n" + STATUS.format(context=context, forced="forced('forkserver')")
    assert succeeds(run_program(tmp_path, text)) == ("7\n" if name == "forksafe" else "255\n")


FORKSERVERS = """
import multiprocessing, os, sys, threading
{imports}
def work():
    pass

def run(context):
    process = context.Process(target=work)
    process.start()
    process.join(50)
    assert process.exitcode == 0

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    run(context)
    from multiprocessing.forkserver import _forkserver
    from multiprocessing.resource_tracker import _resource_tracker
    taken, go = threading.Event(), threading.Event()
    def hold(lock):
        with lock:
            taken.set()
            go.wait(50)
    thread = threading.Thread(target=hold, args=({lock},), daemon=True)
    if {held}:
        thread.start()
        assert taken.wait(50)
    pid = os.fork()
    if not pid:
        try:
            {child}
        except ChildProcessError:
            os._exit(9)
        sys.exit(3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    go.set()
    run(context)
"""
FORKED_CHILDREN = {  # what the child does; the lock that a thread of its parent holds
    "its own forkserver": ("run(context)", None),
    "the forkserver's lock": ("run(context)", "_forkserver._lock"),
    "the resource tracker's lock": ("multiprocessing.get_context('spawn').Lock()", "_resource_tracker._lock"),
}


def forkserver_program(tmp_path, name, imports):
    child, held = FORKED_CHILDREN[name]
    return script(
        tmp_path / "program.py",
        FORKSERVERS.format(imports=imports, child=child, held=bool(held), lock=held),
    )


@pytest.mark.parametrize("name", list(FORKED_CHILDREN))
def test_forkserver_in_child(tmp_path, name):
    """A child of a process that has used a forkserver."""
    program = forkserver_program(tmp_path, name, "import forksafe.processes.process")
    assert succeeds(python(program, timeout=100)) == "3\n"


def test_forkserver_standard(tmp_path):
    """Control: the standard child asks for the exit of its parent's forkserver."""
    assert succeeds(python(forkserver_program(tmp_path, "its own forkserver", ""), timeout=100)) == "9\n"


@pytest.mark.parametrize("name", list(FORKED_CHILDREN)[1:])
def test_control_locks_of_the_servers(tmp_path, name):
    if name == "the resource tracker's lock" and hasattr(ResourceTracker, "_after_fork_in_child"):
        pytest.skip("this Python has a hook for that lock of its own")
    assert hangs(forkserver_program(tmp_path, name, ""))


@pytest.mark.skipif(not SYS_CLONE, reason="no raw clone on this platform")
def test_shared_descriptor_table(tmp_path):
    """And cannot leave their table, as it has a second thread when it notices: the forkserver must live on."""
    succeeds(python("-W", "ignore", script(tmp_path / "program.py", f"""
        import _thread, ctypes, multiprocessing, os, signal, sys
        import forksafe.processes.process

        def work():
            pass

        def run():
            process = multiprocessing.get_context("forkserver").Process(target=work)
            process.start()
            process.join(50)
            assert process.exitcode == 0
            from multiprocessing.forkserver import _forkserver
            return _forkserver._forkserver_pid

        if __name__ == "__main__":
            server = run()
            sys.setswitchinterval(100)
            pid = ctypes.PyDLL(None).syscall({SYS_CLONE}, signal.SIGCHLD | 0x400, 0, 0, 0, 0)
            if pid == 0:
                signal.alarm(30)
                lock = _thread.allocate_lock()
                lock.acquire()
                _thread.start_new_thread(lock.acquire, ())
                forksafe.generation()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert run() == server
    """), timeout=60))  # fmt: skip
