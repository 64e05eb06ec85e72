"""add_audit_hook(): adds an audit hook, and makes sure that it is called.

Guarantees: it is added once, for good: an audit hook cannot be removed. Where a hook of the program forbids others,
sys.addaudithook() raises nothing; this raises RuntimeError.

A hook that is added here passes the event PROBE on to answer().
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["PROBE", "add_audit_hook", "answer"]

PROBE = "forksafe.introspection.audit_hooks"

_Hook = Callable[[str, tuple[Any, ...]], None]
_added: set[_Hook] = set()


def add_audit_hook(hook: _Hook, function: str) -> None:
    """RuntimeError, which names the function that wants the hook, if it was refused."""
    if hook in _added:
        return
    answers: list[_Hook] = []
    sys.addaudithook(hook)
    sys.audit(PROBE, answers)
    if hook not in answers:
        raise RuntimeError(f"{function}: an audit hook of this program forbids to add another")
    _added.add(hook)


def answer(hook: _Hook, args: tuple[Any, ...]) -> None:
    """Called by a hook for the event PROBE: it is there."""
    args[0].append(hook)
