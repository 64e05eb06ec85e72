"""forksafe demo: six programs that fork at a bad moment, each with threading's primitives and with forksafe's.

Guarantees
  - A program runs for at most --timeout seconds, both variants side by side; the whole demo for little more than
    that times the programs.
  - Nothing is left behind: each program has a session of its own, which is killed as a whole when the program ends,
    when its time is up, and when the demo is interrupted (Ctrl-C, SIGTERM, SIGHUP).
  - On a terminal progress is updated in place. In a pipe, and with TERM=dumb, the output is plain lines of ASCII.
    NO_COLOR takes the colours away.
  - Exit status: 0 if all is well with forksafe, 1 if not, 2 for wrong arguments, 130 after Ctrl-C.

The programs are in forksafe/examples, in a source checkout in examples/. With threading's primitives they do not
import forksafe, so what is shown is what Python does alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from forksafe.cli.launch import UsageError, signal_handler

__all__ = ["demo"]

PROGRAMS = {
    "slow_log_handler": "a thread is inside a slow log handler; the child logs",
    "cache": "a thread computes an entry of a cache; the child looks one up",
    "cached_property": "a thread computes a cached property; the child reads another object's",
    "condition": "a thread waits on a condition; in the child a new thread does, and is notified",
    "bounded_semaphore": "threads hold all permits of a semaphore; the child needs them",
    "fork_storm": "200 forks while 8 threads share a lock; each child takes it",
}
VARIANTS = ("threading", "forksafe")

_PACKAGE = Path(__file__).resolve().parents[1]
_POLL = 0.02  # seconds between looks at the programs
_FRAME = 0.1  # seconds between updates of a terminal
_SPINNER = "|/-\\"
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_GREEN, _RED, _DIM = "32", "31", "2"


def demo(options: Namespace) -> int:
    """Run the demo and return its exit status. UsageError for the name of no program."""
    unknown = [name for name in options.only or () if name not in PROGRAMS]
    if unknown:
        raise UsageError(f"no such program: {unknown[0]}; there are {', '.join(PROGRAMS)}")
    if options.list:
        for name, what in PROGRAMS.items():
            print(f"{name:<18} {what}")
        return 0
    if not hasattr(os, "fork"):
        print("This platform has no os.fork, so there is nothing to show: no lock can be left behind by a fork.")
        return 0
    names = [name for name in PROGRAMS if name in (options.only or PROGRAMS)]
    try:
        return _demo(names, options.timeout)
    except BrokenPipeError:  # `forksafe demo | head -3`; what is still buffered must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _demo(names: Sequence[str], timeout: float) -> int:
    folder = _examples()
    if folder is None:
        print("forksafe demo: the example programs are not installed", file=sys.stderr)
        return 1
    screen = _Screen()
    results: list[list[_Run]] = []
    received: list[int] = []  # signals, for _side_by_side(): an exception could lose a program just started
    ends = [each for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) in _DEFAULTS]
    with signal_handler(ends, received.append):
        for name in names:
            print(f"{name}: {screen.paint(PROGRAMS[name], _DIM)}", flush=True)
            results.append(_side_by_side(folder / f"{name}.py", timeout, screen, received))
    print()
    _print_table(results, screen)
    return 0 if all(runs[-1].state == "ok" for runs in results) else 1


def _examples() -> Path | None:
    """The folder of the programs: installed inside the package, or beside src in a source checkout."""
    for folder in (_PACKAGE / "examples", _PACKAGE.parents[1] / "examples"):
        if (folder / "fork_storm.py").is_file():
            return folder
    return None


def _side_by_side(program: Path, timeout: float, screen: _Screen, received: list[int]) -> list[_Run]:
    """SystemExit when a signal was received."""
    runs: list[_Run] = []
    try:
        for primitives in VARIANTS:
            runs.append(_Run(program, primitives, timeout))  # noqa: PERF401  # if the second fails, the first is known
        while any(run.state == "running" for run in runs):
            if received:
                print("\nforksafe demo: interrupted", file=sys.stderr)
                sys.exit(128 + received[0])
            screen.show(runs)
            time.sleep(_POLL)
            for run in runs:
                run.look()
        screen.show(runs)
    finally:
        for run in runs:
            run.close()
    return runs


class _Run:
    """One program with one kind of primitives: started at once, and looked at until its state is not "running"."""

    def __init__(self, program: Path, primitives: str, timeout: float) -> None:
        self.name = program.stem
        self.primitives = primitives
        self.timeout = timeout
        self.state = "running"  # then "ok", "hung" or "failed"
        self.outcome = ""  # "ok in 0.31 s", for the table
        self.detail = ""  # what it printed
        self.started = time.monotonic()
        self.output, self.errors = _file(), _file()
        self.process = subprocess.Popen(
            # Since 3.12 Python warns about forks of processes with threads. They are the point here.
            [sys.executable, "-W", "ignore::DeprecationWarning", str(program), primitives],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.errors,
            env=_environment(),
            start_new_session=True,
        )

    def look(self) -> None:
        """See whether it ended, and end it if its time is up."""
        if self.state != "running":
            return
        self.process.poll()
        seconds = time.monotonic() - self.started
        status = self.process.returncode
        if status is None and seconds < self.timeout:
            return
        self.kill()
        if status is None:
            self.state, self.outcome = "hung", f"hung, killed after {self.timeout:g} s"
        elif status == 0:
            self.state, self.outcome, self.detail = "ok", f"ok in {seconds:.2f} s", _last_line(self.output)
        else:
            self.state, self.outcome, self.detail = "failed", f"failed, status {status}", _last_line(self.errors)

    def kill(self) -> None:
        """Kill the whole session, also what outlived the program itself."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended; macOS: only zombies are left
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.state == "running":
            self.kill()
        self.output.close()
        self.errors.close()


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    if not (_PACKAGE / "examples").is_dir():  # a source checkout: nothing but PYTHONPATH leads to it
        paths = [str(_PACKAGE.parent), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    return environment


def _file() -> IO[str]:
    """For what a program prints. A pipe would stay open while a child hangs."""
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def _last_line(file: IO[str]) -> str:
    """In ASCII, without control characters."""
    file.seek(0)
    return ascii((file.read().splitlines() or [""])[-1])[1:-1]


class _Screen:
    """Shows the runs of one program: on a terminal in place, else each in a line when it ended."""

    def __init__(self) -> None:
        self.in_place = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.coloured = self.in_place and not os.environ.get("NO_COLOR")
        self.shown: list[_Run] = []
        self.ended: list[_Run] = []
        self.due = 0.0

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[m" if self.coloured and colour and text else text

    def show(self, runs: list[_Run]) -> None:
        ended = [run for run in runs if run.state != "running"]
        now = time.monotonic()
        if self.in_place and (ended != self.ended or now >= self.due):
            up = f"\x1b[{len(runs)}A" if runs == self.shown else ""
            print(up + "".join(f"\r\x1b[K{self._line(run)}\n" for run in runs), end="", flush=True)
            self.due = now + _FRAME
        if not self.in_place:
            for run in ended:
                if run not in self.ended:
                    print(self._line(run), flush=True)
        self.shown, self.ended = list(runs), ended

    def _line(self, run: _Run) -> str:
        if run.state == "running":
            seconds = time.monotonic() - run.started
            what, detail = f"{_SPINNER[int(seconds / _FRAME) % len(_SPINNER)]} {seconds:.1f} s", ""
        else:
            what, detail = run.outcome, f": {run.detail}" if run.detail else ""
        if self.in_place:  # a line that wraps could not be updated
            room = max(0, shutil.get_terminal_size().columns - 15)
            what, detail = what[:room], detail[: max(0, room - len(what))]
        return f"  {run.primitives:<10} {self.paint(what, _colour(run))}{detail}"


def _colour(run: _Run) -> str:
    return {"running": _DIM, "ok": _GREEN}.get(run.state, _RED)


def _print_table(results: list[list[_Run]], screen: _Screen) -> None:
    table = [
        [(text, "") for text in ("program", *VARIANTS)],
        *([(runs[0].name, ""), *((run.outcome, _colour(run)) for run in runs)] for runs in results),
    ]
    widths = [max(len(text) for text, _ in column) for column in zip(*table, strict=True)]
    table.insert(1, [("-" * width, "") for width in widths])
    for row in table:
        cells = [
            screen.paint(text, colour) + " " * (width - len(text))
            for (text, colour), width in zip(row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
    total = len(results)
    standard, ours = (sum(run.state == "ok" for run in column) for column in zip(*results, strict=True))
    print("\nA fork copies the locks, but not the threads that hold them or wait.")
    print(f"With threading {standard} of {total} programs came to a good end, with forksafe {ours} of {total}.")
