"""What was measured, as a table to read and as JSON with every round in it.

Contract: one header line says what ran where; columns are aligned; a cell shows the median of a candidate's values
and, in brackets or in its own column, the median of the comparison with the baseline. A goal is shown beside the
result and never judged.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import forksafe
import forksafe_core
from benchmarks.measure import DIFFERENCE, Row

UNITS = {"ns": 1, "us": 1, "ms": 2, "M/s": 2, "B": 0, "MB": 2, "": 2}


@dataclass
class Table:
    """Rows with the same candidates: baseline, then what the goals are about, then others to compare with."""

    title: str
    rows: Sequence[Row]
    candidates: Sequence[str]

    def lines(self) -> list[str]:
        baseline, subject, *others = self.candidates
        compared = "diff" if all(row.compare == DIFFERENCE for row in self.rows) else "ratio"
        cells = [[self.title, baseline, subject, compared, "goal", *others]]
        for row in self.rows:
            first = [row.label, value(row, baseline), value(row, subject), comparison(row, subject), row.goal]
            cells.append([*first, *(value_and_comparison(row, name) for name in others)])
        return aligned(cells)


@dataclass
class Report:
    command: str
    tables: Sequence[Table]
    notes: Sequence[str] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        blocks = [[header()], *(table.lines() for table in self.tables), list(self.notes)]
        return "\n\n".join("\n".join(block) for block in blocks if block)

    def json(self) -> str:
        tables = [
            {"title": table.title, "candidates": list(table.candidates), "rows": [raw(row) for row in table.rows]}
            for table in self.tables
        ]
        content = {"command": self.command, "environment": header(), "settings": self.settings, "tables": tables}
        return json.dumps({**content, "notes": list(self.notes)}, indent=1)


def header() -> str:
    gil = "GIL" if getattr(sys, "_is_gil_enabled", lambda: True)() else "no GIL"
    parts = [
        f"{platform.python_implementation()} {platform.python_version()}",
        platform.platform(),
        f"{os.cpu_count()} cores",
        gil,
        f"forksafe {forksafe.__version__} ({forksafe_core.IMPL})",
    ]
    return ", ".join(parts)


def raw(row: Row) -> dict[str, Any]:
    """A row with every round's values, as measured: the empty loop is one of them and not subtracted."""
    known = [name for name in row.values if row.baseline in row.values]
    return {
        "label": row.label,
        "unit": row.unit,
        "baseline": row.baseline,
        "goal": row.goal,
        "compare": row.compare,
        "overhead": row.overhead,
        "medians": {name: row.median(name) for name in row.values},
        "quartiles": {name: row.quartiles(name) for name in known},
        "rounds": row.values,
    }


def value(row: Row, name: str) -> str:
    if name not in row.values:
        return "-"
    return f"{row.median(name):,.{UNITS[row.unit]}f} {row.unit}".rstrip()


def comparison(row: Row, name: str) -> str:
    if name not in row.values or row.baseline not in row.values:
        return "-"
    if row.compare == DIFFERENCE:
        return f"{row.compared(name):+,.{UNITS[row.unit]}f} {row.unit}"
    return f"{row.compared(name):.2f}"


def value_and_comparison(row: Row, name: str) -> str:
    return "-" if name not in row.values else f"{value(row, name)} ({comparison(row, name)})"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell: the first to the left, the others to the right, a rule below the first."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(padded).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
