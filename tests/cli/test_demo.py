"""forksafe demo: the programs do what they claim with either kind of primitives, and the demo tells it truly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forksafe.cli import demo
from forksafe.cli.main import main

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")

LINES = {
    "slow_log_handler": "the child logged a line",
    "cache": "the child found its entry in the cache",
    "cached_property": "the child computed the property of its object",
    "condition": "the child's worker got its job",
    "bounded_semaphore": "the child got all 2 permits",
    "fork_storm": "200 of 200 children took the lock, none hung",
}
HANGS_IN = {  # the function in which a child is stuck
    "slow_log_handler": "emit",
    "cache": "get",
    "cached_property": "__get__",
    "condition": "join",
    "bounded_semaphore": "acquire",
    "fork_storm": "fork_once",
}
HANGING_PROGRAM = """
import fcntl, os, signal, sys, time
held = open(os.path.join(os.path.dirname(__file__), "held"), "w")
fcntl.flock(held, fcntl.LOCK_SH)  # until this process and its child are gone
pid = os.fork()
if not pid:
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)
    open(os.path.join(os.path.dirname(__file__), "forked-" + sys.argv[1]), "w").close()
time.sleep(600)
"""


def program(name: str) -> str:
    folder = demo._examples()
    assert folder is not None
    return str(folder / f"{name}.py")


def test_each_program_is_listed_and_exists() -> None:
    folder = demo._examples()
    assert folder is not None
    others = {"__init__", "prefork_server", "sqlalchemy_workers"}  # those two need a server: see docs/test_examples.py
    assert {path.stem for path in folder.glob("*.py")} - others == set(demo.PROGRAMS) == set(LINES)


@needs_fork
@pytest.mark.parametrize("name", LINES)
def test_ends_with_forksafe(name: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", program(name)]
    done = subprocess.run(command, check=False, env=demo._environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, LINES[name] + "\n", "")


@pytest.fixture(scope="module")
def no_core_files() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


@pytest.fixture(scope="module")
def hanging(no_core_files: None) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All programs with threading's primitives, at the same time, after they had time enough."""
    processes = {}
    try:
        for name in LINES:
            processes[name] = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", program(name), "threading"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        time.sleep(2)
        yield processes
    finally:
        for process in processes.values():
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


@needs_fork
@pytest.mark.parametrize("name", LINES)
def test_hangs_with_threading(name: str, hanging: dict[str, subprocess.Popen[str]]) -> None:
    process = hanging[name]
    assert process.poll() is None, process.communicate()
    process.kill()
    os.killpg(process.pid, signal.SIGABRT)  # the child is what is left of the session: it writes its stacks
    output, stacks = process.communicate(timeout=10)
    assert output == ""
    # Without the GIL there is but one stack, with another heading.
    current = re.split(r"^(?:Current thread|Stack) ", stacks, flags=re.MULTILINE)[1]
    assert f" in {HANGS_IN[name]}\n" in current


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "forksafe", "demo", *arguments]
    return subprocess.run(command, check=False, env=demo._environment(), capture_output=True, text=True, timeout=60)


@needs_fork
def test_piped() -> None:
    done = run_demo("--only", "condition", "cache", "--timeout", "1.5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    progress, table, closing = done.stdout.split("\n\n")
    assert progress.count("\n") == 5
    assert progress.count("  threading  hung, killed after 1.5 s") == 2
    assert f"s: {LINES['cache']}\n" in progress
    lines = table.splitlines()
    assert lines[0].split() == ["program", "threading", "forksafe"]
    assert [line.split()[0] for line in lines[2:]] == ["cache", "condition"]
    for line in lines:
        threading, forksafe = lines[0].index("threading"), lines[0].index("forksafe")
        assert line[threading - 2 : threading].strip(" -") == line[forksafe - 2 : forksafe].strip(" -") == ""
    for line in lines[2:]:
        assert line[threading:forksafe].strip() == "hung, killed after 1.5 s"
        assert line[forksafe:].startswith("ok in ")
    assert "With threading 0 of 2 programs came to a good end, with forksafe 2 of 2." in closing


@needs_fork
@pytest.mark.parametrize("extra", [{"TERM": "xterm"}, {"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_on_a_terminal(extra: dict[str, str]) -> None:
    import pty

    environment = {**demo._environment(), **extra}
    if "NO_COLOR" not in extra:
        environment.pop("NO_COLOR", None)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "forksafe", "demo", "--only", "cache", "--timeout", "1.2"]
    with subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        written = b""
        try:
            while chunk := os.read(master, 4096):
                written += chunk
        except OSError:  # on Linux: the terminal is not open any more
            pass
        assert process.wait(10) == 0
    os.close(master)
    text = written.decode()
    in_place, coloured = extra["TERM"] != "dumb", extra["TERM"] != "dumb" and "NO_COLOR" not in extra
    assert ("\x1b[2A" in text) == in_place
    assert ("\x1b[31mhung, killed after 1.2 s\x1b[m" in text) == ("\x1b[32mok in " in text) == coloured
    assert ("\x1b[" in text) == in_place
    assert "With threading 0 of 1 programs" in text


def test_list() -> None:
    done = run_demo("--list")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(demo.PROGRAMS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing"], "no such program: nothing; there are slow_log_handler, "),
        (["--timeout", "0"], "'0' is not a number of seconds from 0.1 to 60"),
        (["--timeout", "nan"], "'nan' is not a number of seconds from 0.1 to 60"),
        (["--timeout", "soon"], "'soon' is not a number of seconds from 0.1 to 60"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["demo", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_without_fork(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delattr(os, "fork", raising=False)
    assert main(["demo"]) == 0
    assert "there is nothing to show" in capsys.readouterr().out


@needs_fork
def test_a_program_that_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.py").write_text("import sys\nif sys.argv[1] == 'forksafe': sys.exit('no \\x1b[1mluck\\xe9')\n")
    monkeypatch.setattr(demo, "PROGRAMS", {"odd": "fails with forksafe alone"})
    monkeypatch.setattr(demo, "_examples", lambda: tmp_path)
    assert main(["demo", "--timeout", "30"]) == 1
    output = capsys.readouterr().out
    assert "  forksafe   failed, status 1: no \\x1b[1mluck" in output
    assert output.isascii()
    assert "\x1b" not in output
    assert "With threading 1 of 1 programs came to a good end, with forksafe 0 of 1." in output


@needs_fork
@pytest.mark.parametrize(
    ("number", "status"), [(None, 1), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["timeout", "SIGINT", "SIGTERM"]
)
def test_nothing_is_left_behind(number: int | None, status: int, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "hang.py").write_text(HANGING_PROGRAM)
    script = (
        "import pathlib, sys; from forksafe.cli import demo, main; demo.PROGRAMS = {'hang': 'hangs'}; "
        "demo._examples = lambda: pathlib.Path(sys.argv[1]); sys.exit(main.main(['demo', *sys.argv[2:]]))"
    )
    command = [sys.executable, "-c", script, str(tmp_path), "--timeout", "1" if number is None else "60"]
    with subprocess.Popen(command, env=demo._environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if number is not None:
            wait_until(lambda: len(list(tmp_path.glob("forked-*"))) == 2)
            process.send_signal(number)
        assert process.wait(30) == status
    assert len(list(tmp_path.glob("forked-*"))) == 2

    def all_gone() -> bool:
        with open(tmp_path / "held") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    wait_until(all_gone)


def wait_until(condition: Callable[[], bool], timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
