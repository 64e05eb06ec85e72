"""The README's section on programs that hang: the program hangs, and each command does what the README says."""

from __future__ import annotations

import re
import signal
import sys

import pytest

from support.documents import ROOT, Running, environment_with, write_programs
from support.programs import python, succeeds

README = ROOT / "README.md"
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
    """With app.py, a test and the programs."""
    program, _ = blocks("python")
    (tmp_path / "app.py").write_text(program)
    (tmp_path / "test_app.py").write_text(A_TEST)
    write_programs(tmp_path / "bin")
    return tmp_path


def command(folder, words):
    """The README's line with these words, running."""
    (line,) = [line for line in blocks("sh")[0].splitlines() if words in line.partition("#")[0]]
    return Running(["sh", "-c", f"exec env {line}"], folder, environment_with(folder / "bin"))


def test_readme_doctor(folder):
    with command(folder, "forksafe doctor") as doctor:
        assert doctor.read(30, "-> "), doctor.said
        (shown,) = blocks("text")
        places = re.sub(rf"{re.escape(str(folder))}/|process \d+|\d+\.\d s", "", doctor.said)
        for line in re.sub(r"process \d+|\d+\.\d s", "", shown).splitlines()[:-1]:
            assert line in places.splitlines(), doctor.said
        doctor.process.send_signal(signal.SIGINT)
        assert doctor.read(30, "danger  lock: threading.Lock __main__.lock, held"), doctor.said
        assert shown.splitlines()[-1] in doctor.said
        assert "1 fork, 1 child that hung" in doctor.said


def test_readme_run(folder):
    with command(folder, "forksafe run") as run:
        assert (run.ends(30), run.said) == (0, "")


def test_readme_watchdog(folder):
    with command(folder, "FORKSAFE_WATCHDOG") as program:
        assert program.read(30, "make it a forksafe.Lock"), program.said
        assert "MainThread waits for a Lock, __main__.lock, that was held when the process forked" in program.said


def test_readme_pytest(folder):
    with command(folder, "pytest") as tests:
        assert tests.ends(60) == 1, tests.said
        assert "ForkHazardError" in tests.said
        assert "1 failed" in tests.said


def test_readme_code():
    """The lines that are to be called from inside a program."""
    _, lines = blocks("python")
    succeeds(python("-c", f"import os, threading, forksafe\n{lines}"))
