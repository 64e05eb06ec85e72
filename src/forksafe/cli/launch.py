"""How a program is started so that forksafe begins before the program's first line.

Guarantees: the environment makes each Python that the program starts run bootstrap/sitecustomize.py first. sys.argv,
__main__ and the interpreter's own options are what they would be without forksafe.

Not covered: a Python that ignores its environment or skips its site module (-I, -E, -S).
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

__all__ = ["BOOTSTRAP", "UsageError", "command_of", "environment_of", "signal_handler"]

BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap")


class UsageError(Exception):
    """The arguments make no sense, or the program cannot be started; the text says why."""


def environment_of(**variables: str) -> dict[str, str]:
    """This process's environment, with which a program begins with forksafe, and with these variables."""
    path = os.pathsep.join(filter(None, [BOOTSTRAP, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "FORKSAFE_RUN": "1", "PYTHONPATH": path, **variables}


def command_of(program: list[str]) -> tuple[str, list[str]]:
    """The executable and the arguments that start a program, given as SCRIPT ..., -m MODULE ... or -- COMMAND ...

    UsageError if there is no such program.
    """
    target, arguments = program[:1], program[1:]
    if not target or (target == ["--"] and not arguments):
        raise UsageError("a script, -m MODULE or -- COMMAND is needed")
    if target == ["-m"] and not arguments:
        raise UsageError("-m needs the name of a module")
    if target == ["--"]:
        path = shutil.which(arguments[0])
        if path is None:
            raise UsageError(f"command not found: {arguments[0]}")
        return path, arguments
    if sys.flags.ignore_environment or sys.flags.no_site:
        raise UsageError("needs a Python started without -I, -E and -S, which keep it from starting up with forksafe")
    return sys.executable, [sys.executable, *_interpreter_flags(), *program]


@contextmanager
def signal_handler(numbers: Iterable[int], handler: Callable[[int], object]) -> Iterator[None]:
    """Within the block, call handler(number) for these signals."""
    before = {number: signal.signal(number, lambda number, _: handler(number)) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _interpreter_flags() -> list[str]:
    """The options this Python was started with, which stand before `-m forksafe` or the script's name."""
    given = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if given[-2:] == ["-m", "forksafe"]:
        return given[:-2]
    return given[:-1] if given and not given[-1].startswith("-c") and "-c" not in given else []
