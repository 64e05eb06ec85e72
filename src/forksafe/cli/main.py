"""The command line: forksafe run | doctor | demo.

run replaces this process by the program, in an environment that makes Python install forksafe before the program's
first line: sys.argv, __main__, tracebacks and the exit status are the program's own, and its Python children are
covered too. Errors of ours are one line on stderr and status 2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from forksafe.patching.install import Report

__all__ = ["interpreter_flags", "main", "print_report", "python_path"]

USAGE = """\
usage: forksafe run [OPTION ...] SCRIPT [ARGUMENT ...]
       forksafe run [OPTION ...] -m MODULE [ARGUMENT ...]
       forksafe run [OPTION ...] -- COMMAND [ARGUMENT ...]
       forksafe doctor [OPTION ...] SCRIPT | -m MODULE | -- COMMAND [ARGUMENT ...]
       forksafe demo [--help]
       forksafe --version

run     runs a program, unmodified, with locks that survive fork: a script or a module with this
        Python, or, after --, any command; Pythons that it starts are covered too
          --connections  children do not share what the program connects to: they find it closed, and
                         connect anew; not for programs that connect and then become a daemon
          --verbose      says on stderr what was replaced, protected and left alone
doctor  runs a program as it is, and tells on stderr what each of its forks would break, and which
        children hang, and on what; the exit status is the program's
          --strict       exit status 1 where there were hazards, or a child hung
          --json FILE    the report as JSON ("-": on stdout)
          --html FILE    the report as a page
          --hang SECONDS how long a child is blocked before it counts as hanging (default 5)
demo    shows six programs that hang after fork, and do not with forksafe
"""
_OPTIONS = {"--connections": "FORKSAFE_CONNECTIONS", "--verbose": "FORKSAFE_VERBOSE"}
BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap")


def main(argv: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if argv is None else argv
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if command in ("-V", "--version"):
        from forksafe import __version__

        print(f"forksafe {__version__}")
        return 0
    if command == "demo":
        from forksafe.cli import demo

        return demo.main(rest)
    if command == "run":
        return _run(rest)
    if command == "doctor":
        from forksafe.cli import doctor

        return doctor.main(rest)
    return _refuse(f"no such command: {command}" if command else "a command is needed")


def _refuse(problem: str) -> int:
    print(f"forksafe: {problem}\n{USAGE.partition(chr(10) * 2)[0]}", file=sys.stderr)
    return 2


def _run(arguments: list[str]) -> int:
    environment = dict(os.environ, FORKSAFE_RUN="1")
    while arguments and arguments[0].startswith("--") and arguments[0] != "--":
        option, *arguments = arguments
        if option == "--help":
            print(USAGE, end="")
            return 0
        if option not in _OPTIONS:
            return _refuse(f"run: no such option: {option}")
        environment[_OPTIONS[option]] = "1"
    target, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if not target or (target == "--" and not rest):
        return _refuse("run: a script, -m MODULE or -- COMMAND is needed")
    if target == "-m" and not rest:
        return _refuse("run: -m needs the name of a module")
    if target.startswith("-") and target not in ("-", "-m", "-c", "--"):
        return _refuse(f"run: no such option: {target}")
    environment["PYTHONPATH"] = python_path()
    if target == "--":
        return _become(rest[0], rest, environment)
    if sys.flags.ignore_environment or sys.flags.no_site:
        return _refuse(
            "run: needs a Python started without -I, -E and -S, which keep it from starting up with forksafe"
        )
    return _become(sys.executable, [sys.executable, *interpreter_flags(), *arguments], environment)


def python_path() -> str:
    """PYTHONPATH for a program that is to start up with forksafe."""
    return os.pathsep.join(filter(None, [BOOTSTRAP, os.environ.get("PYTHONPATH")]))


def _become(program: str, command: list[str], environment: dict[str, str]) -> int:
    path = shutil.which(program)
    if path is None:
        return _refuse(f"run: command not found: {program}")
    sys.stdout.flush()
    try:
        if sys.platform == "win32":  # exec there lets the shell go on before the program has ended
            return subprocess.call(command, executable=path, env=environment)
        os.execve(path, command, environment)
    except OSError as error:
        return _refuse(f"run: {program}: {error.strerror}")


def interpreter_flags() -> list[str]:
    """The options this Python was started with, which stand before `-m forksafe` or the script's name."""
    given = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    if given[-2:] == ["-m", "forksafe"]:
        return given[:-2]
    return given[:-1] if given and not given[-1].startswith("-c") and "-c" not in given else []


def print_report(report: Report) -> None:
    """What install() did, on stderr."""
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


def _exit() -> NoReturn:
    sys.exit(main())


if __name__ == "__main__":
    _exit()
