"""python -m benchmarks COMMAND: one module of this package per command.

A command is a module with SUMMARY, add_options(parser) and run(options), which returns a report.Report. To add one,
write the module and name it in COMMANDS. The exit status is 0 when it ran, also where goals were not met.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = {
    "locks": "locks",
    "per_process": "per_process",
    "fork": "fork",
    "import": "importing",
    "descriptors": "descriptors",
    "pool": "pool",
    "executors": "executors",
    "hazards": "hazards",
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure forksafe next to threading.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = import_module(f"benchmarks.{module_name}")
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        command.add_argument("--json", metavar="FILE", type=Path, help="write every round's raw numbers to FILE")
        command.add_argument("--quick", action="store_true", help="fewer and shorter rounds: a look, not a measurement")
        command.add_argument("--seed", type=int, default=1, help="of the order in which candidates run (default: 1)")
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser


def main() -> int:
    options = make_parser().parse_args()
    report = options.run(options)
    print(report.text())
    if options.json:
        options.json.write_text(report.json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
