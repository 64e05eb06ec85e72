"""Programs that use resources."""

from __future__ import annotations

import textwrap

from support.programs import TESTS, python, script, succeeds

HEADER = f"""
import atexit, functools, multiprocessing, os, sys, threading
sys.path.insert(0, {TESTS!r})
import forksafe

def say(*what):
    os.write(1, (" ".join(map(str, what)) + "\\n").encode())

def wait(pid):
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def run(tmp_path, text, *arguments):
    """Run a program in a fresh interpreter."""
    program = script(tmp_path / "program.py", HEADER + textwrap.dedent(text))
    return python(program, *map(str, arguments))


def printed(tmp_path, text, *arguments):
    """The lines that a program prints, which ends well."""
    return succeeds(run(tmp_path, text, *arguments)).splitlines()
