"""Programs that tests run in a fresh interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import Any

TESTS = str(Path(__file__).resolve().parent.parent)
WITH_STACKS = {"PYTHONFAULTHANDLER": "1"}  # SIGABRT has a program and its children write their stacks


def path_with_tests(*more: str) -> dict[str, str]:
    """The environment of a program that imports `support`, or what is in other folders."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, [TESTS, *more, os.environ.get("PYTHONPATH")]))}


def _start(arguments: tuple[str, ...], env: dict[str, str], **more: Any) -> subprocess.Popen[str]:
    """This interpreter, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.DEVNULL, text=True,
        start_new_session=True, env={**os.environ, **WITH_STACKS, **env}, **more,
    )  # fmt: skip


def python(
    *arguments: str, timeout: float = 30, env: dict[str, str] | None = None, **more: Any
) -> subprocess.CompletedProcess[str]:
    """This interpreter, run with arguments; when time is up its whole session is ended, after its stacks."""
    from support.hangs import abort_tree  # here: the programs that import `support` do without

    process = _start(arguments, env or {}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        abort_tree(process.pid)
        out, err = process.communicate()
        raise AssertionError(f"hung for more than {timeout} s\nstdout: {out[-4000:]}\nstderr: {err[-8000:]}") from None
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def script(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


def succeeds(result: subprocess.CompletedProcess[str]) -> str:
    """The output of a program that ended well."""
    assert result.returncode == 0, f"status {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}"
    return result.stdout


def hangs(*arguments: str, at: str = "", timeout: float = 3, env: dict[str, str] | None = None, **more: Any) -> bool:
    """The negative control: does the program hang, in what `at` names? It talks to no process outside its session.

    timeout: seconds after which a program counts as hanging whose state does not say it.
    """
    from support.hangs import abort_tree, wait_until_stuck

    with tempfile.TemporaryFile("w+") as said:
        process = _start(arguments, env or {}, stdout=said, stderr=said, **more)
        try:
            deadline = time.monotonic() + timeout
            stuck = wait_until_stuck(process.pid, timeout, lambda: process.poll() is not None)
            hung = stuck or (time.monotonic() >= deadline and process.poll() is None)
        finally:
            abort_tree(process.pid)
            status = process.wait()
        said.seek(0)
        text = said.read()
    assert hung or status == 0, f"status {status}\n{text}"
    assert not hung or at in text, f"it hangs elsewhere:\n{text[-8000:]}"
    return hung
