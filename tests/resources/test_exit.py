"""Clean-up of resources at exit: in the process that made the value, by whichever way it ends, and in no other."""

from __future__ import annotations

import sys

import pytest

from support.forks import SYS_CLONE
from support.resources import printed, run


@pytest.fixture
def lines(tmp_path):
    """lines(program, *arguments): what printed() returns."""
    return lambda *program: printed(tmp_path, *program)


def test_last_made_first(lines):
    assert lines("""
        def make(name):
            @forksafe.resource
            def value():
                yield name
                say("end", name)
            return value
        a, b, c = map(make, "abc")
        d = forksafe.resource(lambda: "d", close=lambda value: say("end", value))
        for each in b, d, a, c, b:
            each()
        say("exit")
    """) == ["exit", "end c", "end a", "end d", "end b"]


def test_never_made_or_closed_already(lines):
    """What was never made, or is closed already, is not cleaned up."""
    assert lines("""
        a = forksafe.resource(lambda: "a", close=lambda value: say("end", value))
        b = forksafe.resource(lambda: "b", close=lambda value: say("end", value))
        a()
        a.close()
        say("exit")
    """) == ["end a", "exit"]


def test_each_process_its_own(lines):
    assert lines("""
        db = forksafe.resource(os.getpid, close=lambda pid: say("end", pid == os.getpid(), pid == parent))
        parent = db()
        pid = os.fork()
        if not pid:
            sys.exit()  # the inherited value only: nothing to do
        wait(pid)
        say("the first child has ended")
        pid = os.fork()
        if not pid:
            db()
            sys.exit()
        wait(pid)
        say("the second child has ended")
    """) == [
        "the first child has ended", "end True False", "the second child has ended", "end True True",
    ]  # fmt: skip


def test_control_atexit_runs_in_the_child_too(lines):
    assert lines("""
        atexit.register(lambda: say("end", os.getpid() == parent))
        parent = os.getpid()
        pid = os.fork()
        if pid:
            wait(pid)
    """) == ["end False", "end True"]


PARENTS_SESSION = """
    from support.server_sessions import Client
    port = int(sys.argv[1])
    {db}
    mine = db().session
    {fork}
    if not pid:
        sys.exit()
    wait(pid)
    say(db().session == mine)
"""
FORKS = {
    "os.fork": "pid = os.fork()",
    "C fork": "import ctypes; pid = ctypes.PyDLL(None).fork()",
}
if sys.platform == "linux" and SYS_CLONE:
    call = f"syscall({SYS_CLONE}, signal.SIGCHLD, 0, 0, 0, 0)"
    FORKS["raw clone"] = f"import ctypes, signal; pid = ctypes.PyDLL(None).{call}"


@pytest.mark.parametrize("how", list(FORKS))
def test_child_exits(lines, session_server, how):
    """It leaves the parent's session."""
    text = PARENTS_SESSION.format(
        db="db = forksafe.resource(lambda: Client(port), close=Client.close)", fork=FORKS[how]
    )
    assert lines(text, session_server.port) == ["True"]


def test_cached_connection(tmp_path, session_server):
    """The control: the parent loses its session."""
    text = PARENTS_SESSION.format(
        db="db = functools.lru_cache(lambda: Client(port))\n    client = db()", fork=FORKS["os.fork"]
    )
    result = run(tmp_path, text, session_server.port)
    assert result.returncode == 1
    assert "ConnectionError" in result.stderr or "BrokenPipeError" in result.stderr, result.stderr


def test_not_after_os_exit(lines):
    assert lines("""
        db = forksafe.resource(lambda: 1, close=lambda value: say("end"))
        db()
        say("exit")
        os._exit(0)
    """) == ["exit"]


MULTIPROCESSING = """
    db = forksafe.resource(os.getpid, close=lambda pid: say("end", pid == os.getpid(), pid == parent))
    parent = None

    def work():
        {work}

    if __name__ == "__main__":
        parent = db()
        process = multiprocessing.get_context({method!r}).Process(target=work)
        process.start()
        process.join(20)
        assert process.exitcode == 0, process.exitcode
        say("joined")
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_multiprocessing_child(lines, method):
    assert lines(MULTIPROCESSING.format(work="db()", method=method)) == ["end True False", "joined", "end True True"]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_child_unused(lines, method):
    """A child that never asks for the value cleans nothing up."""
    assert lines(MULTIPROCESSING.format(work="pass", method=method)) == ["joined", "end True True"]


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="since 3.13 they run what they register themselves")
def test_multiprocessing_skips_atexit(lines):
    """The control: its children run no atexit function."""
    work = 'atexit.register(lambda: say("end in the child"))'
    assert lines(MULTIPROCESSING.format(work=work, method="fork")) == ["joined", "end True True"]


def test_a_child_of_a_multiprocessing_child(lines):
    work = 'db(); pid = os.fork(); pid or (db(), say("grandchild"), sys.exit()); wait(pid)'
    assert lines(MULTIPROCESSING.format(work=work, method="fork")) == [
        "grandchild", "end True False", "end True False", "joined", "end True True",
    ]  # fmt: skip


def test_a_process_pools_worker(lines):
    assert lines("""
        from concurrent.futures import ProcessPoolExecutor
        db = forksafe.resource(os.getpid, close=lambda pid: say("end", pid == os.getpid(), pid == parent))
        parent = db()

        def ask():
            return db() == os.getpid() != parent

        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            assert pool.submit(ask).result(20)
        say("joined")
    """) == ["end True False", "joined", "end True True"]


def test_clean_up_raises(tmp_path):
    """The others still run."""
    text = """
        a = forksafe.resource(lambda: "a", close=lambda value: say("end", value))
        b = forksafe.resource(lambda: "b", close=lambda value: 1 / 0)
        c = forksafe.resource(lambda: "c", close=lambda value: sys.exit(3))
        a(), b(), c()
    """
    result = run(tmp_path, text)
    assert (result.returncode, result.stdout) == (0, "end a\n")
    assert "ZeroDivisionError" in result.stderr and "SystemExit" in result.stderr


def test_clean_up_asks_for_value(lines):
    assert lines("""
        log = forksafe.resource(lambda: "log", close=lambda value: say("end log"))
        db = forksafe.resource(lambda: "db", close=lambda value: (log(), say("end db")))
        log(), db()
        log.close()
    """) == ["end log", "end db", "end log"]


def test_threads_running_and_ended(lines):
    assert lines("""
        db = forksafe.resource(lambda: threading.current_thread().name, close=lambda name: say("end", name),
                               per_thread=True)
        db()
        ended = threading.Thread(target=db, name="ended")
        ended.start()
        ended.join()
        started = threading.Event()
        work = lambda: (db(), started.set(), threading.Event().wait())
        threading.Thread(target=work, name="runs", daemon=True).start()
        started.wait(10)
        say("exit")
    """) == ["end ended", "exit", "end runs", "end MainThread"]


def test_values_made_in_a_child_only(lines):
    assert lines("""
        db = forksafe.resource(lambda: 1, close=lambda value: say("end"))
        pid = os.fork()
        if not pid:
            db()
            sys.exit()
        wait(pid)
        say("exit")
    """) == ["end", "exit"]
