"""forksafe doctor: runs a program, reports what each of its forks would break, and which children hang, and on what.

Guarantees: the program runs as it would, with its own input and output, signals and exit status. The report comes when
it has ended, or when the doctor is interrupted. A child that hangs is reported at once, for the program may never end
then. No argument values, environment or contents are in a report.

Not covered: processes whose Python ignores the environment (-I, -E). Children of forks that Python did
not make, unless their main thread hangs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from forksafe.cli.launch import UsageError, command_of, environment_of, signal_handler
from forksafe.doctor.html_report import page_of
from forksafe.doctor.native_children import SilentChildren
from forksafe.doctor.report import Events, Report, text_of, text_of_hang

__all__ = ["doctor"]

_LOOK_EVERY = 0.25  # seconds


def doctor(options: Namespace) -> int:
    """Run the program, report, and return the exit status. UsageError if it cannot be started."""
    path, command = command_of(options.program)
    name = options.program[1 if options.program[0] in ("--", "-m") else 0]
    with tempfile.TemporaryDirectory(prefix="forksafe-") as folder:
        status = _run(path, command, options.hang, folder)
        report = Report.read(Path(folder), name, status)
    print(text_of(report), file=sys.stderr, end="")
    _write(options.json, lambda: json.dumps(report.as_dict(), indent=2) + "\n")
    _write(options.html, lambda: page_of(report))
    return 1 if options.strict and report.has_problems() else status


def _run(path: str, command: list[str], hang: float, folder: str) -> int:
    """The program's exit status; 128 and the signal's number if a signal ended it."""
    environment = environment_of(FORKSAFE_DOCTOR=folder, FORKSAFE_DOCTOR_HANG=str(hang))
    sys.stdout.flush()
    try:
        process = subprocess.Popen(command, executable=path, env=environment)
    except OSError as error:
        raise UsageError(f"{command[0]}: {error.strerror}") from None
    events = Events(Path(folder))
    silent = SilentChildren(process.pid, Path(folder), hang)
    with signal_handler([signal.SIGINT, signal.SIGTERM], lambda number: _pass_on(process, number)):
        while process.poll() is None:
            time.sleep(_LOOK_EVERY)
            silent.look()
            _report_hangs(events)
    _report_hangs(events)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _pass_on(process: subprocess.Popen[bytes], number: int) -> None:
    if number != signal.SIGINT or not sys.stdin.isatty():  # a terminal has sent it to the program, too
        process.send_signal(number)


def _report_hangs(events: Events) -> None:
    for event in events.new():
        if event["event"] == "hang":
            print(text_of_hang(event), file=sys.stderr, end="", flush=True)


def _write(path: str, text: Callable[[], str]) -> None:
    if not path:
        return
    if path == "-":
        print(text(), end="")
        return
    try:
        Path(path).write_text(text(), encoding="utf-8")
    except OSError as error:
        print(f"forksafe: doctor: {path}: {error.strerror}", file=sys.stderr)
