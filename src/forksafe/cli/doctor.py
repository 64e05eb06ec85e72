"""forksafe doctor: runs a program and tells what each of its forks would break, and which children hang, and on what.

Guarantees: the program runs as it would, with its own input and output, signals and exit status; the report comes when
it has ended, or when the doctor is interrupted. A child that hangs is told of as soon as that is known, for the program
may never end then. No argument values, environment or contents are in a report.

Not covered: processes whose Python ignores the environment (-I, -E); children of forks that Python did not make, but
for those whose main thread hangs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from forksafe.cli.main import interpreter_flags, python_path
from forksafe.doctor.native_children import SilentChildren
from forksafe.doctor.report import Events, Report, text_of, text_of_hang

__all__ = ["main"]

USAGE = (
    "usage: forksafe doctor [--strict] [--json FILE] [--html FILE] [--hang SECONDS] "
    "SCRIPT | -m MODULE | -- COMMAND [ARGUMENT ...]"
)
_LOOK_EVERY = 0.25  # seconds


class _Wrong(Exception):
    """What was given makes no sense; its text says why."""


class _Options:
    strict = False
    json = html = ""
    hang = 5.0
    command: list[str]
    name: str  # of the program, for the report


def main(arguments: Sequence[str]) -> int:
    """The doctor's own errors are one line on stderr and status 2."""
    try:
        options = _parsed(list(arguments))
    except _Wrong as wrong:
        print(f"forksafe: doctor: {wrong}\n{USAGE}", file=sys.stderr)
        return 2
    if options is None:
        print(USAGE)
        return 0
    with tempfile.TemporaryDirectory(prefix="forksafe-") as folder:
        status = _run(options, folder)
        report = Report.read(Path(folder), options.name, status)
    print(text_of(report), file=sys.stderr, end="")
    _write(options.json, lambda: json.dumps(report.as_dict(), indent=2) + "\n")
    _write(options.html, lambda: _page_of(report))
    return 1 if options.strict and report.has_problems() else status


def _parsed(arguments: list[str]) -> _Options | None:
    options = _Options()
    while arguments and arguments[0].startswith("--") and arguments[0] != "--":
        option = arguments.pop(0)
        if option == "--help":
            return None
        if option == "--strict":
            options.strict = True
        elif option in ("--json", "--html", "--hang"):
            if not arguments:
                raise _Wrong(f"{option} needs a value")
            _set(options, option[2:], arguments.pop(0))
        else:
            raise _Wrong(f"no such option: {option}")
    if not arguments or (arguments[0] in ("--", "-m") and len(arguments) == 1):
        raise _Wrong("a script, -m MODULE or -- COMMAND is needed")
    if arguments[0] == "--":
        options.command = arguments[1:]
        options.name = arguments[1]
        if shutil.which(options.command[0]) is None:
            raise _Wrong(f"command not found: {options.command[0]}")
    elif arguments[0].startswith("-") and arguments[0] not in ("-m", "-c", "-"):
        raise _Wrong(f"no such option: {arguments[0]}")
    else:
        if sys.flags.ignore_environment or sys.flags.no_site:
            raise _Wrong("needs a Python started without -I, -E and -S, which keep it from starting up with forksafe")
        options.command = [sys.executable, *interpreter_flags(), *arguments]
        options.name = arguments[1] if arguments[0] == "-m" else arguments[0]
    return options


def _set(options: _Options, name: str, value: str) -> None:
    if name != "hang":
        setattr(options, name, value)
        return
    try:
        options.hang = float(value)
    except ValueError:
        options.hang = 0.0
    if not 0 < options.hang < 1e6:
        raise _Wrong(f"--hang takes a number of seconds above 0, not {value}")


def _run(options: _Options, folder: str) -> int:
    """The program's exit status; 128 and the signal's number if one has ended it."""
    environment = dict(
        os.environ,
        FORKSAFE_RUN="1",
        FORKSAFE_DOCTOR=folder,
        FORKSAFE_DOCTOR_HANG=str(options.hang),
        PYTHONPATH=python_path(),
    )
    sys.stdout.flush()
    process = subprocess.Popen(options.command, env=environment)
    before = {
        number: signal.signal(number, lambda number, frame: _pass_on(process, number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    events = Events(Path(folder))
    silent = SilentChildren(process.pid, Path(folder), options.hang)
    try:
        while process.poll() is None:
            time.sleep(_LOOK_EVERY)
            silent.look()
            _tell_of_hangs(events)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    _tell_of_hangs(events)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _pass_on(process: subprocess.Popen[bytes], number: int) -> None:
    if number != signal.SIGINT or not sys.stdin.isatty():  # a terminal has sent it to the program, too
        process.send_signal(number)


def _tell_of_hangs(events: Events) -> None:
    for event in events.new():
        if event["event"] == "hang":
            print(text_of_hang(event), file=sys.stderr, end="", flush=True)


def _page_of(report: Report) -> str:
    from forksafe.doctor.html_report import page_of

    return page_of(report)


def _write(path: str, text: Any) -> None:
    if not path:
        return
    if path == "-":
        print(text(), end="")
        return
    try:
        Path(path).write_text(text(), encoding="utf-8")
    except OSError as error:
        print(f"forksafe: doctor: {path}: {error.strerror}", file=sys.stderr)
