"""The command line: forksafe run | doctor | demo. A command's module is imported when the command is called.

Guarantees: an error in the arguments is one line on stderr, followed by the usage, and exit status 2. The options of
run and doctor stand before the program. All that follows is the program's own, options included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from forksafe import __version__
from forksafe.cli.launch import UsageError

__all__ = ["main"]

_EXAMPLES = """\
examples:
  forksafe run app.py               the program, with locks that survive fork
  forksafe run -- gunicorn app:app  any command; the Pythons that it starts are covered
  forksafe doctor --hang 2 app.py   what hangs, and on what
  forksafe demo                     what this is about

forksafe COMMAND --help explains a command and its options.
"""
_PROGRAM = """\
PROGRAM is one of
  SCRIPT [ARGUMENT ...]      a script, with this Python
  -m MODULE [ARGUMENT ...]   a module, with this Python
  -- COMMAND [ARGUMENT ...]  any command
The Pythons that it starts are covered, too. Options that follow are the program's own.
"""
_PROGRAM_BEGINS = ("-", "--", "-m", "-c")  # besides what does not look like an option
_WITH_VALUE = ("--json", "--html", "--hang")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. SystemExit for --help, --version and wrong arguments."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    own, program = _split(["--help"] if arguments[:1] == ["help"] else arguments)
    parser = _parser()
    options, unknown = parser.parse_known_args(own, argparse.Namespace(parser=parser, program=program))
    command_parser: _Parser = options.parser
    if unknown:
        kind = "option" if unknown[0].startswith("-") else "argument"
        command_parser.error(f"no such {kind}: {unknown[0]}")
    if options.command is None:
        parser.error("a command is needed")
    try:
        return _call(options)
    except UsageError as error:
        command_parser.error(str(error))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """forksafe's own arguments; and the program with its arguments, which no parser of forksafe may see."""
    if arguments[:1] not in (["run"], ["doctor"]):
        return arguments, []
    n = 1
    while n < len(arguments) and arguments[n].startswith("-") and arguments[n] not in _PROGRAM_BEGINS:
        n += 2 if arguments[n] in _WITH_VALUE else 1
    return arguments[:n], arguments[n:]


def _call(options: argparse.Namespace) -> int:
    if options.command == "run":
        from forksafe.cli.run import run as command
    elif options.command == "doctor":
        from forksafe.cli.doctor import doctor as command
    else:
        from forksafe.cli.demo import demo as command
    return command(options)


class _Parser(argparse.ArgumentParser):
    def __init__(self, **more: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **more)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog.replace(' ', ': ')}: {message}\n{self.format_usage()}")


def _parser() -> _Parser:
    parser = _Parser(prog="forksafe", description="For programs that fork while they have threads.", epilog=_EXAMPLES)
    parser.add_argument("-V", "--version", action="version", version=f"forksafe {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(name: str, what: str, more: str, epilog: str = "") -> _Parser:
        usage = f"forksafe {name} [OPTION ...]{' PROGRAM' if epilog else ''}"
        description = f"{what[0].upper()}{what[1:]}.\n{more}"
        added = commands.add_parser(name, help=what, usage=usage, description=description, epilog=epilog)
        added.set_defaults(parser=added)
        return added

    run = add(
        "run",
        "run a program, unmodified, with locks that survive fork",
        "Its exit status, output and tracebacks are its own.",
        _PROGRAM,
    )
    run.add_argument("--verbose", action="store_true", help="report what is replaced, protected and left alone")
    run.add_argument(
        "--connections",
        action="store_true",
        help="children do not share what the program connects to: they find it closed, and connect anew; "
        "not for programs that connect and then become a daemon",
    )

    doctor = add(
        "doctor",
        "report what a program's forks would break, and which children hang",
        "The program runs as it is. The report is on stderr; the exit status is the program's.",
        _PROGRAM,
    )
    doctor.add_argument("--strict", action="store_true", help="exit status 1 if there were hazards, or a child hung")
    doctor.add_argument("--json", default="", metavar="FILE", help='write the report as JSON ("-": on stdout)')
    doctor.add_argument("--html", default="", metavar="FILE", help="write the report as a page")
    blocked = "how long a child is blocked before it counts as hanging (default: %(default)g)"
    doctor.add_argument("--hang", type=_seconds(0.001, 1e6), default=5.0, metavar="SECONDS", help=blocked)

    demo = add(
        "demo",
        "show six programs that hang after fork, and do not with forksafe",
        "Each forks while its threads are busy, with threading's locks and with forksafe's.",
    )
    time = "a program's time (default: %(default)s)"
    demo.add_argument("--timeout", type=_seconds(0.1, 60), default=2.5, metavar="SECONDS", help=time)
    demo.add_argument("--only", nargs="+", action="extend", metavar="NAME", help="run only these programs")
    demo.add_argument("--list", action="store_true", help="list the programs and run none")
    return parser


def _seconds(least: float, most: float) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {least:g} to {most:g}")
        return value

    return convert
