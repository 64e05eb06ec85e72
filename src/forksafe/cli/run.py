"""forksafe run: replaces this process by a program that begins with forksafe installed.

Guarantees: sys.argv, __main__, tracebacks and the exit status are the program's own. The Pythons that it starts begin
with forksafe, too.
"""

from __future__ import annotations

import os
import sys

from forksafe.cli.launch import UsageError, command_of, environment_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace

    from forksafe.patching.install import Report

__all__ = ["print_report", "run"]


def run(options: Namespace) -> int:
    """Returns only on Windows, where exec would let the shell go on before the program has ended."""
    given = {"FORKSAFE_CONNECTIONS": options.connections, "FORKSAFE_VERBOSE": options.verbose}
    environment = environment_of(**{name: "1" for name, on in given.items() if on})
    path, command = command_of(options.program)
    sys.stdout.flush()
    try:
        if sys.platform == "win32":
            import subprocess

            return subprocess.call(command, executable=path, env=environment)
        os.execve(path, command, environment)
    except OSError as error:
        raise UsageError(f"{command[0]}: {error.strerror}") from None


def print_report(report: Report) -> None:
    """What install() did, on stderr. Called by bootstrap/sitecustomize.py for --verbose."""
    lines = [f"forksafe: pid {os.getpid()}, {len(report.replaced)} names replaced"]
    for title, items in (
        ("replaced", report.replaced),
        ("existing locks exchanged", report.exchanged),
        ("existing objects protected", report.protected),
        ("left alone", report.left_alone),
        ("protected when they are made", report.watched),
        ("connections watched", report.connections),
    ):
        lines += [f"  {title}:"] + [f"    {item}" for item in sorted(items)] if items else []
    print("\n".join(lines), file=sys.stderr)
