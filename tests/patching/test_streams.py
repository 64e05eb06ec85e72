"""In a child, under install(): stdout half written by threads that vanished."""

from __future__ import annotations

from support.patching import INSTALL, run
from support.programs import python, script, succeeds

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


def test_blocked_writer(tmp_path):
    """Nothing is lost or written twice."""
    patience = "import forksafe.patching.streams; forksafe.patching.streams.FLUSH_TIMEOUT = 0.3\n"
    assert read_all(FORK_AND_READ, tmp_path, "blocked", INSTALL + patience) == [1, 3, 500_000]


def test_parent_exits_at_once(tmp_path):
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


def test_streams_left_alone(tmp_path):
    """Replaced, closed and missing ones are."""
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
