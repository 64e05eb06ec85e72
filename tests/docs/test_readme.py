"""The README's section on programs that hang, run: the program hangs, and each command does what it is said to do."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from support.programs import python

README = Path(__file__).resolve().parent.parent.parent / "README.md"
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell what threads are in"),
    pytest.mark.skipif(not README.exists(), reason="the README is not here"),
]

A_TEST = """
import os, threading

def test_forks_beside_a_thread():
    go = threading.Event()
    thread = threading.Thread(target=go.wait)
    thread.start()
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        go.set()
        thread.join(10)
"""


def section():
    text = README.read_text(encoding="utf-8")
    return text.partition("## My program hangs after fork: why?")[2].partition("\n## ")[0]


def blocks(kind):
    return re.findall(rf"```{kind}\n(.*?)```", section(), re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    """With app.py, a test, and a PATH on which `python`, `forksafe` and `pytest` are this interpreter's."""
    program, _ = blocks("python")
    (tmp_path / "app.py").write_text(program)
    (tmp_path / "test_app.py").write_text(A_TEST)
    plugin = "" if any(e.value == "forksafe.pytest_plugin" for e in entry_points(group="pytest11")) else (
        "-p forksafe.pytest_plugin")  # fmt: skip
    (tmp_path / "bin").mkdir()
    for name, module in (("python", ""), ("forksafe", "-m forksafe"), ("pytest", f"-m pytest {plugin} -p no:timeout")):
        file = tmp_path / "bin" / name
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -W ignore {module} "$@"\n')
        file.chmod(0o755)
    return tmp_path


class Command:
    """A line of the README, run in a session of its own."""

    def __init__(self, folder, words):
        lines = [line.partition("#")[0].strip() for line in blocks("sh")[0].splitlines()]
        (self.line,) = [line for line in lines if words in line]
        assignments = [word for word in self.line.split() if re.match(r"[A-Z_]+=", word)]
        environment = {**os.environ, **dict(word.split("=", 1) for word in assignments)}
        environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(each) for each in sys.path if each)
        command = shlex.split(self.line)[len(assignments) :]
        command[0] = str(folder / "bin" / command[0])
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate(timeout=10)

    def reads(self, wanted, seconds=30):
        """Its lines up to one with these words. The alarm ends a read for which no line comes."""

        def give_up(number, frame):
            raise AssertionError(f"no {wanted!r} within {seconds} s:\n{''.join(lines)}")

        lines = []
        before = signal.signal(signal.SIGALRM, give_up)
        signal.alarm(seconds)
        try:
            for line in self.process.stdout:
                lines.append(line)
                if wanted in line:
                    return "".join(lines)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        raise AssertionError(f"ended without {wanted!r}:\n{''.join(lines)}")


def test_the_doctor_says_what_the_readme_says(folder):
    with Command(folder, "forksafe doctor") as command:
        said = command.reads("-> ")
        (shown,) = blocks("text")
        places = re.sub(rf"{re.escape(str(folder))}/|process \d+|\d+\.\d s", "", said)
        for line in re.sub(r"process \d+|\d+\.\d s", "", shown).splitlines():
            assert line in places.splitlines(), said
        command.process.send_signal(signal.SIGINT)
        whole = command.reads("danger  lock: threading.Lock __main__.lock, held")
        assert "1 fork, 1 child that hung" in whole


def test_run_cures_it(folder):
    with Command(folder, "forksafe run") as command:
        said, _ = command.process.communicate(timeout=30)
        assert (command.process.returncode, said) == (0, "")


def test_the_watchdog_tells_of_it(folder):
    with Command(folder, "FORKSAFE_WATCHDOG") as command:
        said = command.reads("make it a forksafe.Lock")
        assert "MainThread waits for a Lock, __main__.lock, that was held when the process forked" in said


def test_pytest_refuses_the_fork(folder):
    with Command(folder, "pytest") as command:
        said, _ = command.process.communicate(timeout=60)
        assert command.process.returncode == 1, said
        assert "ForkHazardError" in said
        assert "1 failed" in said


def test_the_lines_for_inside():
    _, lines = blocks("python")
    result = python("-c", f"import os, threading, forksafe\n{lines}")
    assert result.returncode == 0, result.stderr
