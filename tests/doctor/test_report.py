"""forksafe doctor: what a program's forks would break, and what its children hang on; the program is not changed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from support.programs import python, script

HANGS = """
import logging, os, signal, sys, threading
go, inside = threading.Event(), threading.Event()

class Registry:
    def __init__(self):
        self.lock = threading.Lock()
    def add(self, name):
        with self.lock:
            inside.set()
            go.wait(60)

registry = Registry()
threading.Thread(target=registry.add, args=("secret-one",), name="adder", daemon=True).start()
assert inside.wait(10)
pid = os.fork()
if pid == 0:
    signal.alarm(6)
    registry.add("secret-two")
os.waitpid(pid, 0)
print("the program's own output")
sys.exit(5)
"""
QUIET = "import os, sys\nif os.fork():\n    os.wait()\n    sys.exit(3)\n"


def doctor(*arguments, timeout=60, **more):
    return python("-W", "ignore", "-m", "forksafe", "doctor", *arguments, timeout=timeout, **more)


def test_a_child_that_hangs(tmp_path):
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    path = script(tmp_path / "program.py", HANGS)
    result = doctor("--hang", "1", "--html", str(page), "--json", str(data), path, "secret-argument")
    assert (result.returncode, result.stdout) == (5, "the program's own output\n")
    said = result.stderr
    for text in (
        "MainThread waits for a Lock, __main__.Registry.lock, that was held when the process forked",
        "held by adder, which does not exist in this process; at the fork it was at",
        "danger  lock: threading.Lock __main__.Registry.lock, held",
        "adder is at",
        "-> make it a forksafe.Lock",
        "ended with status 5",
    ):
        assert text in said, said
    report = json.loads(data.read_text())
    (fork,), (hang,) = report["forks"], report["hangs"]
    assert fork["child"] == hang["pid"]
    assert "program.py" in fork["where"]
    assert "Registry.lock" in hang["on"]
    assert any(" in add" in line for line in hang["holder_stack"])
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert "Registry.lock" in text
    assert "<svg" in text
    assert "http" not in text.replace("http-equiv", ""), "it loads nothing"
    assert "secret" not in said + data.read_text() + text


def test_strict_and_quiet_programs(tmp_path):
    path = script(tmp_path / "program.py", QUIET)
    result = doctor(path, close_fds=True)
    assert result.returncode == 3
    assert f"forksafe doctor: {path} ended with status 3\n1 fork" in result.stderr
    assert "nothing that would break" in result.stderr
    assert doctor("--strict", path).returncode == 3
    hazard = script(tmp_path / "hazard.py", QUIET.replace("import os, sys\n", """
import os, sys, threading
go = threading.Event()
threading.Thread(target=go.wait, args=(1,)).start()
"""))  # fmt: skip
    assert doctor(hazard).returncode == 3
    assert doctor("--strict", hazard).returncode == 1


def test_modules_and_commands(tmp_path):
    script(tmp_path / "program.py", QUIET)
    result = doctor("-m", "program", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    assert "1 fork" in result.stderr
    assert "forksafe doctor: program ended" in result.stderr
    result = doctor("--", sys.executable, "program.py", cwd=tmp_path)
    assert result.returncode == 3
    assert f"forksafe doctor: {sys.executable} ended" in result.stderr
    assert "1 fork" in result.stderr


def test_doctor_exit_status(tmp_path):
    """It is the program's, or 128 and the signal's number."""
    result = doctor(script(tmp_path / "program.py", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    assert result.returncode == 128 + signal.SIGKILL
    result = doctor(script(tmp_path / "program.py", "raise ValueError('of the program')"))
    assert result.returncode == 1
    assert "ValueError: of the program" in result.stderr


def test_interrupted(tmp_path):
    """SIGTERM is passed on, and the report comes all the same."""
    waits = "os.wait(); print('waits', flush=True); import time; time.sleep(60)"
    path = script(tmp_path / "program.py", QUIET.replace("os.wait()", waits))
    process = subprocess.Popen(
        [sys.executable, "-m", "forksafe", "doctor", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "waits\n"
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "1 fork" in said


@pytest.mark.timeout(200)
def test_a_storm_of_forks_finishes(tmp_path):
    forks = int(os.environ.get("FORKSAFE_STORM", "60"))
    path = script(tmp_path / "program.py", """
        import os, threading
        over = threading.Event()
        lock = threading.Lock()
        def work():
            while not over.is_set():
                with lock:
                    sum(range(100))
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads: thread.start()
        for _ in range(FORKS):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        over.set()
    """.replace("FORKS", str(forks)))  # fmt: skip
    result = doctor(path, timeout=180)
    assert result.returncode == 0, result.stderr[-3000:]
    assert f"{forks} forks" in result.stderr


def test_internal_error(tmp_path):
    """An error of forksafe's own is one line, and the program goes on."""
    path = script(tmp_path / "program.py", """
        import os, shutil, sys
        shutil.rmtree(os.environ["FORKSAFE_DOCTOR"])
        if os.fork():
            os.wait()
            sys.exit(3)
    """)  # fmt: skip
    result = doctor(path)
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert "forksafe: the doctor of process" in result.stderr


@pytest.mark.parametrize(("arguments", "problem"), [
    ([], "a script, -m MODULE or -- COMMAND is needed"),
    (["-m"], "-m needs the name of a module"),
    (["--nonsense", "x.py"], "no such option: --nonsense"),
    (["--hang", "0", "x.py"], "argument --hang: '0' is not a number of seconds from 0.001 to 1e+06"),
    (["--json"], "argument --json: expected one argument"),
    (["--", "no-such-command-here"], "command not found: no-such-command-here"),
])  # fmt: skip
def test_bad_arguments(arguments, problem):
    result = doctor(*arguments)
    assert result.returncode == 2
    assert f"forksafe: doctor: {problem}" in result.stderr
    assert "usage: forksafe doctor" in result.stderr
