"""How the tests find the hazards of one kind, and an object with a lock for a thread to hold."""

from __future__ import annotations

import forksafe


def of(kind, **wanted):
    """The hazards of one kind that have such values, as substrings."""
    return [
        hazard for hazard in forksafe.hazards([kind])
        if all(text in getattr(hazard, name) for name, text in wanted.items())
    ]  # fmt: skip


class Account:
    def __init__(self, lock):
        self.lock = lock
