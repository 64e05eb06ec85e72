"""Forks while eight threads submit and four workers run, from outside and from inside tasks: storm.py.

FORKSAFE_STORM=2000 python -m pytest tests/executors/test_storm.py runs the long form.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.programs import python, succeeds

PROGRAM = Path(__file__).with_name("storm.py")
COUNT = int(os.environ.get("FORKSAFE_STORM", "80"))

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.timeout(120 + COUNT),
]


def test_storm():
    """No task is lost or run twice, and children end as asked."""
    said = succeeds(python("-W", "ignore", str(PROGRAM), str(COUNT), "8", "4", timeout=100 + COUNT))
    assert f"'outside': {COUNT // 2}" in said, said
    assert f"'inside': {COUNT // 2}" in said, said


def test_control_the_standard_executor():
    """The first children find no threads: they hang, and are ended by their alarm."""
    result = python("-W", "ignore", str(PROGRAM), "2", "8", "4", "standard", timeout=100)
    assert result.returncode != 0
    assert "each run once" not in result.stdout
