"""Fixtures of the tests of hooks."""

from __future__ import annotations

import pytest

import forksafe


@pytest.fixture
def register():
    """register_at_fork, undone at the end."""
    made = []

    def do(**hooks):
        made.append(forksafe.register_at_fork(**hooks))
        return made[-1]

    yield do
    for each in made:
        each.unregister()
