"""add_audit_hook(): an audit hook, and the certainty that it is there.

Guarantees: it is added once for good, for none can be removed. A hook of the program's that forbids others makes no
error in sys.addaudithook(); here it is a RuntimeError.

What is added passes the event PROBE on to answer().
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["PROBE", "add_audit_hook", "answer"]

PROBE = "forksafe.introspection.audit_hooks"

_Hook = Callable[[str, tuple[Any, ...]], None]
_added: set[_Hook] = set()


def add_audit_hook(hook: _Hook, whose: str) -> None:
    """RuntimeError, which begins with `whose`, if it was refused."""
    if hook in _added:
        return
    answers: list[_Hook] = []
    sys.addaudithook(hook)
    sys.audit(PROBE, answers)
    if hook not in answers:
        raise RuntimeError(f"{whose}: an audit hook of this program forbids to add another")
    _added.add(hook)


def answer(hook: _Hook, args: tuple[Any, ...]) -> None:
    """For a hook that was asked by PROBE whether it is there."""
    args[0].append(hook)
