"""In a child, under install(): modules half imported, and stdout half written, by threads that vanished."""

from __future__ import annotations

import pytest
from conftest import python, script, succeeds
from test_patching import INSTALL, run

PACKAGE = {
    "pkg/__init__.py": "from pkg import done\nfrom pkg import slow\nready = True\n",
    "pkg/done.py": "import pkg\ndef parent():\n    return pkg.ready\n",
    "pkg/slow.py": "import builtins\nbuiltins.importing.set()\nbuiltins.go.wait(30)\nvalue = 42\n",
}
PROGRAM = """
import builtins
builtins.importing, builtins.go = threading.Event(), threading.Event()
def load():
    import pkg
threading.Thread(target=load, daemon=True).start()
assert importing.wait(5)
def child():
    go.set()
    import pkg, pkg.slow
    from pkg import done
    assert pkg.ready and pkg.slow.value == 42 and done.parent() and pkg.done is done
    assert pkg.__spec__.loader is pkg.__loader__ and type(pkg.__loader__).__name__ == "SourceFileLoader"
    import importlib
    importlib.reload(pkg)
in_child(child, 3)
go.set()
import pkg
assert pkg.ready
"""


@pytest.fixture
def package(tmp_path):
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_half_imported_package_can_be_imported(package):
    succeeds(run(package, PROGRAM))


def test_control_without_forksafe_the_import_hangs(package):
    result = run(package, PROGRAM, install="")
    assert result.returncode == 1
    assert "the child hung" in result.stderr


def test_in_a_grandchild(package):
    """Half imported at the first fork, and not touched before the second."""
    succeeds(run(package, PROGRAM.replace("in_child(child, 3)", "in_child(lambda: in_child(child, 3), 5)")))


def test_import_of_the_thread_that_forks_goes_on(tmp_path):
    (tmp_path / "forks.py").write_text(
        "import os\npid = os.fork()\nif pid:\n    status = os.waitpid(pid, 0)[1]\nvalue = 1\n"
    )
    succeeds(run(tmp_path, """
        import forks
        assert forks.value == 1
        if forks.pid == 0:
            import forks
            os._exit(0)
        assert forks.status == 0
    """))  # fmt: skip


def test_import_that_is_the_first_call_after_a_fork_by_c(tmp_path):
    """No hooks ran: the cure comes while this very import holds its module's lock."""
    (tmp_path / "late.py").write_text("value = 1\n")
    succeeds(run(tmp_path, """
        import ctypes
        libc = ctypes.PyDLL(None)
        os.fork = libc.fork
        def child():
            import late
            return late.value == 1
        in_child(child)
    """))  # fmt: skip


def test_module_that_fails_half_way_can_be_tried_again(tmp_path):
    (tmp_path / "flaky.py").write_text(
        "import builtins\nbuiltins.importing.set()\nbuiltins.go.wait(30)\n"
        "builtins.tries.append(1)\nif len(builtins.tries) == 1:\n    raise OSError('first')\n"
    )
    succeeds(run(tmp_path, """
        import builtins
        builtins.importing, builtins.go, builtins.tries = threading.Event(), threading.Event(), []
        def load():
            try:
                import flaky
            except OSError: pass
        threading.Thread(target=load, daemon=True).start()
        assert importing.wait(5)
        def child():
            go.set()
            try:
                import flaky
            except OSError: pass
            else: return False
            import flaky
        in_child(child)
    """))  # fmt: skip


STDOUT = """
import io
mode = sys.argv[1]
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(writer)
if mode == "buffered":
    sys.stdout.write("parent's text\\n")
else:
    def blocked():
        sys.stdout.write("X" * 500_000 + "\\nparent's text\\n")
        sys.stdout.flush()
    threading.Thread(target=blocked, daemon=True).start()
    time.sleep(0.2)
kept = sys.stdout
"""
CHILD = """
def child():
    print("child's text", flush=True)
    kept.write("child's text\\n")
    kept.flush()
    sys.stdout.buffer.write(b"child's text\\n")
    sys.stdout.flush()
"""


def read_all(text: str, tmp_path, mode: str, install: str = INSTALL):
    """Run it with a reader on the pipe that begins after the fork; returns what came out."""
    program = (
        STDOUT
        + CHILD
        + text
        + """
os.set_blocking(reader, False)
got, end = b"", time.monotonic() + 20
while time.monotonic() < end and not (done() and (mode == "buffered" or got.count(b"X") == 500_000)):
    try:
        got += os.read(reader, 1 << 20)
    except BlockingIOError:
        time.sleep(0.005)
time.sleep(0.1)
try:
    sys.stdout.flush()
    while chunk := os.read(reader, 1 << 20):
        got += chunk
except BlockingIOError:
    pass
sys.stderr.write("%d %d %d" % (got.count(b"parent's text"), got.count(b"child's text"), got.count(b"X")))
sys.stderr.flush()
os._exit(0)
"""
    )
    result = run(tmp_path, program.replace("sys.argv[1]", repr(mode)), install=install)
    succeeds(result)
    return [int(number) for number in result.stderr.split()[-3:]]


FORK_AND_READ = """
pid = os.fork()
if pid == 0:
    child()
    sys.stdout.flush()
    os._exit(0)
ended = []
def done():
    if not ended and os.waitpid(pid, os.WNOHANG)[0]:
        ended.append(1)
    return ended
"""


def test_buffered_text_is_written_once(tmp_path):
    assert read_all(FORK_AND_READ, tmp_path, "buffered") == [1, 3, 0]


def test_control_standard_writes_it_twice(tmp_path):
    assert read_all(FORK_AND_READ, tmp_path, "buffered", install="")[0] == 2


def test_blocked_writer_nothing_lost_or_doubled(tmp_path):
    patience = "import forksafe.streams; forksafe.streams.FLUSH_TIMEOUT = 0.3\n"
    assert read_all(FORK_AND_READ, tmp_path, "blocked", INSTALL + patience) == [1, 3, 500_000]


def test_parent_that_exits_at_once_loses_nothing(tmp_path):
    """Daemonising: the parent calls os._exit() right after the fork, its text still buffered."""
    program = script(
        tmp_path / "program.py",
        """
        import forksafe; forksafe.install()
        import os, sys
        sys.stdout.write("written before the fork\\n")
        if os.fork():
            os._exit(0)
        print("from the daemon")
    """,
    )
    result = python(program)
    assert sorted(succeeds(result).splitlines()) == ["from the daemon", "written before the fork"]


def test_replaced_closed_and_missing_streams_are_left_alone(tmp_path):
    succeeds(run(tmp_path, """
        import io
        for stdout in (io.StringIO(), None, open(os.devnull, "w"), io.TextIOWrapper(io.BytesIO())):
            sys.stdout = stdout
            in_child(lambda: None)
        sys.stdout = closed = open(os.devnull, "w")
        closed.close()
        in_child(lambda: None)
        sys.stdout = detached = open(os.devnull, "w")
        detached.detach()
        in_child(lambda: None)
        sys.stdout = sys.__stdout__
    """))  # fmt: skip
