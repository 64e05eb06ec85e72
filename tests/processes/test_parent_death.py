"""No process of get_context() outlives its parent, however that ends, and whatever the process does."""

from __future__ import annotations

import os
import textwrap

import pytest

from support.processes import HEADER, METHODS, linux, run_program
from support.programs import succeeds

OUTLIVES = """
def sleep():
    time.sleep(200)

def close_everything():
    os.closerange(3, 4096)
    time.sleep(200)

def keep_the_gil():
    ctypes.PyDLL(None).sleep(200)

def block_signals():
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    time.sleep(200)

def end_main_thread():
    threading.Thread(target=time.sleep, args=(200,)).start()
    ctypes.CDLL(None).pthread_exit(None)

def leaf(connection, what):
    connection.send(("leaf", os.getpid()))
    globals()[what]()

def parent_of_leaf(connection, method, daemon, what):
    forced(method)
    context.Process(target=leaf, args=(connection, what), daemon=daemon).start()
    connection.send(("parent", os.getpid()))  # it knows what it has started by now
    time.sleep(200)

def middle(how, *arguments):
    _, method, daemon, _ = arguments
    forced(method)
    if how == "in a thread":
        threading.Thread(target=parent_of_leaf, args=arguments).start()
    elif how == "in a forked child":
        if os.fork() == 0:
            parent_of_leaf(*arguments)
    elif how == "deeper":
        context.Process(target=parent_of_leaf, args=arguments, daemon=daemon).start()
    else:
        parent_of_leaf(*arguments)
    time.sleep(200)

def run(method, daemon, what, how):
    case = method, daemon, what, how
    reader, writer = multiprocessing.Pipe(False)
    process = context.Process(target=middle, args=(how, writer, method, daemon, what), daemon=True)
    process.start()
    pids = {}
    while len(pids) < 2:
        assert reader.poll(LIMIT), ("not started", case, pids)
        role, pid = reader.recv()
        pids[role] = pid
    assert is_alive(pids["leaf"]), ("ended too early", case)
    if how == "deeper":
        process.kill()  # and so its child, and the child of that
    else:
        os.kill(pids["parent"], signal.SIGKILL)
    good = ends(pids["leaf"]) and ends(pids["parent"])
    if not good:
        os.kill(pids["leaf"], signal.SIGKILL)
    process.kill()
    process.join()
    assert good, ("outlived its parent", case)
"""


@linux
@pytest.mark.parametrize("method", METHODS)
def test_none_outlives_its_parent(tmp_path, method):
    """The parent is killed, or its own parent is. Its child is daemonic, or not; sleeps, or does what could save it."""
    text = f"""
    if __name__ == "__main__":
        for how in ("at once", "in a thread", "in a forked child", "deeper"):
            for daemon in (True, False):
                run({method!r}, daemon, "sleep", how)
        for what in ("close_everything", "keep_the_gil", "block_signals", "end_main_thread"):
            run({method!r}, True, what, "at once")
        print("done")
    """
    assert succeeds(run_program(tmp_path, OUTLIVES + textwrap.dedent(text))) == "done\n"


@linux
@pytest.mark.parametrize("method", METHODS)
def test_standard_outlives_parent(tmp_path, method):
    """Control: the standard ones outlive their parent."""
    text = f"""
    def leaf(connection):
        connection.send(os.getpid())
        time.sleep(200)

    def middle(connection):
        multiprocessing.get_context({method!r}).Process(target=leaf, args=(connection,)).start()
        time.sleep(200)

    if __name__ == "__main__":
        reader, writer = multiprocessing.Pipe(False)
        process = multiprocessing.get_context({method!r}).Process(target=middle, args=(writer,))
        process.start()
        pid = reader.recv()
        process.kill()
        process.join()
        time.sleep(0.3)
        print(is_alive(pid))
        os.kill(pid, signal.SIGKILL)
    """
    assert succeeds(run_program(tmp_path, text)) == "True\n"


WAYS_TO_END = {
    "os._exit": "os._exit(0)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "an exception": "raise SystemExit(5)",
    "the end": "pass",
}


@linux
@pytest.mark.parametrize("end", list(WAYS_TO_END))
def test_however_the_parent_ends(tmp_path, end):
    text = f"""
    def leaf(connection):
        connection.send(os.getpid())
        time.sleep(200)

    def middle(connection, method):
        forced(method)
        context.Process(target=leaf, args=(connection,), daemon=True).start()
        connection.recv()
        {WAYS_TO_END[end]}

    if __name__ == "__main__":
        for method in {METHODS}:
            here, there = multiprocessing.Pipe()
            process = context.Process(target=middle, args=(there, method), daemon=True)
            process.start()
            pid = here.recv()
            assert is_alive(pid)
            here.send("end")
            process.join(LIMIT)
            assert process.exitcode is not None and ends(pid), method
        print("done")
    """
    assert succeeds(run_program(tmp_path, text)) == "done\n"


@linux
@pytest.mark.parametrize("method", METHODS)
def test_parent_dies_before_child_begins(tmp_path, method):
    """The child gets no further than where it is tied to its parent: what it would write is never written."""
    text = f"""
    def wait_for_end(pid):
        while is_alive(pid):
            time.sleep(0.002)

    class Late:  # with what it is given, a child that was not forked waits
        def __init__(self, pid):
            self.pid = pid
        def __reduce__(self):
            return wait, (self.pid,)

    def wait(pid):
        os.write(2, b"waits\\n")
        wait_for_end(pid)
        return Late(pid)

    def leaf(late, writer):
        writer.send("alive")

    def middle(writer, ready):
        forced({method!r})
        me = os.getpid()
        if {method!r} == "fork":
            os.register_at_fork(after_in_child=lambda: wait(me))
        process = context.Process(target=leaf, args=(Late(me), writer), daemon=True)
        process.start()
        ready.send("started")
        time.sleep(200)

    if __name__ == "__main__":
        reader, writer = multiprocessing.Pipe(False)
        is_ready, ready = multiprocessing.Pipe(False)
        process = context.Process(target=middle, args=(writer, ready), daemon=True)
        process.start()
        writer.close()
        assert is_ready.poll(LIMIT)
        process.kill()
        process.join()
        assert reader.poll(LIMIT), "the child has neither ended nor begun"
        try:
            print(reader.recv())
        except EOFError:
            print("ended")
    """
    result = run_program(tmp_path, text)
    assert succeeds(result) == "ended\n"
    assert method == "spawn" or "waits" in result.stderr  # a spawned one is tied while it still imports


@linux
def test_siblings_keep_none_alive(tmp_path):
    """Those made by os.fork have inherited all that their parent had open, and live on."""
    text = f"""
    def leaf(connection):
        connection.send(os.getpid())
        time.sleep(200)

    def middle(connection, method):
        forced(method)
        context.Process(target=leaf, args=(connection,), daemon=True).start()
        connection.recv()
        if os.fork() == 0:
            connection.send(os.getpid())
            time.sleep(200)
        time.sleep(200)

    if __name__ == "__main__":
        for method in {METHODS}:
            here, there = multiprocessing.Pipe()
            process = context.Process(target=middle, args=(there, method), daemon=True)
            process.start()
            pid = here.recv()
            here.send("fork")
            other = here.recv()
            process.kill()
            process.join()
            good = ends(pid)
            assert is_alive(other)
            os.kill(other, signal.SIGKILL)
            assert good, method
        print("done")
    """
    assert succeeds(run_program(tmp_path, text)) == "done\n"


@linux
def test_forks_by_threads_keep_none_alive(tmp_path):
    """Many forks while many processes are started: none of the children has an end that is its parent's."""
    text = """
    def leaf():
        time.sleep(200)

    def middle(connection):
        go_on = True
        def start():
            for _ in range(8):
                process = context.Process(target=leaf, daemon=True)
                process.start()
                connection.send(process.pid)
        thread = threading.Thread(target=start)
        thread.start()
        for _ in range(300):
            if not thread.is_alive():
                break
            pid = os.fork()
            if pid == 0:
                time.sleep(200)
            connection.send(-pid)
        thread.join()
        connection.send(0)
        time.sleep(200)

    if __name__ == "__main__":
        reader, writer = multiprocessing.Pipe(False)
        process = context.Process(target=middle, args=(writer,), daemon=True)
        process.start()
        pids = []
        while 0 not in pids:
            assert reader.poll(LIMIT)
            pids.append(reader.recv())
        process.kill()
        process.join()
        good = [ends(pid) for pid in pids if pid > 0]
        for pid in pids:
            if pid < 0:
                os.kill(-pid, signal.SIGKILL)
        assert all(good) and len(good) == 8, pids
        print("done")
    """
    assert succeeds(run_program(tmp_path, text)) == "done\n"


@linux
def test_kernel_without_signal(tmp_path):
    """Where the kernel sends no signal."""
    text = f"""
    def fail(fd, pid):
        raise OSError
    parent_death.signal_on_hangup = processes.signal_on_hangup = fail

    if __name__ == "__main__":
        for method in {METHODS}:
            for what in ("sleep", "block_signals", "end_main_thread"):
                run(method, True, what, "at once")
        print("done")
    """
    assert succeeds(run_program(tmp_path, OUTLIVES + textwrap.dedent(text))) == "done\n"


@linux
def test_main_program_killed(tmp_path):
    """What the main program starts outlives it unless it is daemonic."""
    text = """
    def leaf(writer):
        os.close(1)
        os.close(2)
        time.sleep(200)

    if __name__ == "__main__":
        pids = []
        for daemon in (True, False):
            process = context.Process(target=leaf, args=(None,), daemon=daemon)
            process.start()
            pids.append(process.pid)
        print(*pids, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    result = run_program(tmp_path, text)
    daemonic, other = map(int, result.stdout.split())
    space: dict[str, object] = {}
    exec(HEADER, space)
    try:
        assert space["ends"](daemonic)  # type: ignore[operator]
        assert space["is_alive"](other)  # type: ignore[operator]
    finally:
        os.kill(other, 9)
