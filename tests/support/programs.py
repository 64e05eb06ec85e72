"""Programs that tests run in a fresh interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

TESTS = str(Path(__file__).resolve().parent.parent)


def path_with_tests(*more: str) -> dict[str, str]:
    """The environment of a program that imports `support`, or what is in other folders."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [TESTS, *more, os.environ.get("PYTHONPATH")]))}


def python(*arguments: str, timeout: float = 30, **more: object) -> subprocess.CompletedProcess[str]:
    """This interpreter, run with arguments, in a session of its own that is killed as a whole when time is up."""
    environment = {**os.environ, **more.pop("env", {})}  # type: ignore[dict-item]
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env=environment, **more,  # type: ignore[call-overload]
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"hung for more than {timeout} s\nstdout: {out[-4000:]}\nstderr: {err[-4000:]}") from None
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def script(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


def succeeds(result: subprocess.CompletedProcess[str]) -> str:
    """The output of a program that ended well."""
    assert result.returncode == 0, f"status {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}"
    return result.stdout


def hangs(*arguments: str, timeout: float = 1.5, **more: object) -> bool:
    """The negative control: does the program hang?"""
    try:
        result = python(*arguments, timeout=timeout, **more)
    except AssertionError:
        return True
    assert result.returncode == 0, result.stderr
    return False
