"""Programs under install(connections=True), and under install() alone, the control."""

from __future__ import annotations

from pathlib import Path

from support.programs import path_with_tests, python, script

INSTALL = "import forksafe; forksafe.install(connections=True)\n"
ONLY_LOCKS = "import forksafe; forksafe.install()\n"
PRELUDE = """
import os, resource, socket, sys
import forksafe
from support.forks import FORKS
from forksafe.testing import run_in_child
from forksafe_core import atfork
from support.server_sessions import Client

def in_child(fn, fork=os.fork):
    def child():
        forksafe.generation()  # a fork without handlers is noticed here
        return fn()
    return run_in_child(child, fork=fork)
"""


def run(tmp_path, text, *arguments, install=INSTALL, **more):
    program = script(tmp_path / "program.py", text)
    body = Path(program).read_text()
    Path(program).write_text(install + PRELUDE + body)
    return python(program, *map(str, arguments), env={**path_with_tests(), **more.pop("env", {})}, **more)
