"""Commands that the documentation shows, run as a reader runs them."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def write_programs(folder: Path) -> None:
    """`python`, `forksafe` and `pytest`, which are this interpreter's."""
    plugin = "" if any(e.value == "forksafe.pytest_plugin" for e in entry_points(group="pytest11")) else (
        "-p forksafe.pytest_plugin")  # fmt: skip
    folder.mkdir()
    for name, module in (("python", ""), ("forksafe", "-m forksafe"), ("pytest", f"-m pytest {plugin} -p no:timeout")):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {module} "$@"\n')
        file.chmod(0o755)


def environment_with(programs: Path) -> dict[str, str]:
    """This process's environment, with the programs and with the packages that this interpreter imports."""
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(programs), PATH]),
        "PYTHONPATH": os.pathsep.join(os.path.abspath(each) for each in sys.path if each),
        "PYTHONWARNINGS": "ignore::DeprecationWarning",  # from 3.12 on: that a process with threads forks
    }


class Running:
    """A command in a session of its own, what it has written so far, and its end."""

    def __init__(self, command: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.said = ""
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.communicate(timeout=10)

    def read(self, seconds: float, until: str = "") -> bool:
        """Read up to this text, or until every process with its output has closed it. False when the time is up."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        while not until or until not in self.said:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return False
            piece = os.read(self.process.stdout.fileno(), 65536)
            if not piece:
                return not until
            self.said += piece.decode(errors="replace")
        return True

    def ends(self, seconds: float) -> int:
        """Its exit status."""
        assert self.read(seconds), f"it hangs:\n{self.said}"
        return self.process.wait(10)
