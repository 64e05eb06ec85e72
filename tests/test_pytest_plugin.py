"""The plugin for pytest: inert unless asked; then tests that fork under hazards are reported, or fail."""

from __future__ import annotations

import pytest

from support.programs import python, script

TESTS = """
import os, threading

class Account:
    def __init__(self):
        self.lock = threading.Lock()

def test_forks_under_a_hazard(run_in_child):
    account, inside, go = Account(), threading.Event(), threading.Event()

    def hold():
        with account.lock:
            inside.set()
            go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    try:
        assert run_in_child(lambda: 3) == 3
    finally:
        go.set()
        thread.join(10)

def test_forks(run_in_child):
    assert run_in_child(lambda: 4) == 4
"""


def run(tmp_path, *arguments):
    path = script(tmp_path / "test_of_a_user.py", TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    plugin = ["-p", "forksafe.pytest_plugin"] if not _is_installed() else []
    return python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:timeout", *plugin, *arguments, path,
                  cwd=tmp_path, timeout=60)  # fmt: skip


def _is_installed():
    from importlib.metadata import entry_points

    return any(each.value == "forksafe.pytest_plugin" for each in entry_points(group="pytest11"))


def test_inert_unless_asked(tmp_path):
    result = run(tmp_path)
    assert result.returncode == 0, result.stdout
    assert "2 passed" in result.stdout
    assert "would break" not in result.stdout


def test_warn(tmp_path):
    # CPython warns itself, from 3.12 on, of each fork beside threads.
    result = run(tmp_path, "--forksafe=warn", "-o", "forksafe_severity=danger", "-W", "ignore::DeprecationWarning")
    assert result.returncode == 0, result.stdout
    assert "2 passed, 1 warning" in result.stdout
    assert "Account.lock" in result.stdout


def test_error(tmp_path):
    result = run(tmp_path, "--forksafe=error", "-o", "forksafe_severity=danger")
    assert result.returncode == 1
    assert "1 failed, 1 passed" in result.stdout
    assert "ForkHazardError" in result.stdout
    assert "Account.lock" in result.stdout


def test_ignored_modules(tmp_path):
    result = run(tmp_path, "--forksafe=error", "-o", "forksafe_severity=danger", "-o", "forksafe_ignore=test_of_a_user")
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", [["--forksafe=perhaps"], ["--forksafe=warn", "-o", "forksafe_severity=bad"]])
def test_bad_options(tmp_path, arguments):
    result = run(tmp_path, *arguments)
    assert result.returncode == 4
    assert "forksafe" in result.stderr
