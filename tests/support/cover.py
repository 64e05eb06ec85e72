"""Matrices of tests: a subset in which every two values meet runs by default, the rest is marked `slow`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest

FIXTURES = {"fork_name", "client"}  # names that are fixtures, which take the value as their parameter


def cover(**factors: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test by the product of the factors."""
    names = list(factors)
    rows = list(product(*factors.values()))
    chosen = covering(rows)
    cells = [
        pytest.param(*row, marks=() if row in chosen else pytest.mark.slow, id="-".join(map(_label, names, row)))
        for row in rows
    ]
    return pytest.mark.parametrize(names, cells, indirect=[name for name in names if name in FIXTURES])


def covering(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows in which every pair of values occurs that occurs in any; the same ones each time."""
    pairs = {row: set(combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*pairs.values())
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs[row] & missing))
        chosen.append(best)
        missing -= pairs[best]
    return chosen


def _label(name: str, value: Any) -> str:
    if name == "tls":
        return "TLS" if value else "plain"
    return str(getattr(value, "__name__", value))
