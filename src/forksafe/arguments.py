"""Checks of arguments that several parts of forksafe take.

Guarantees: a wrong argument is a TypeError or ValueError that names the argument, says what it takes, and shows what it
was given. `what` names the argument, as in "quiesce(timeout)".
"""

from __future__ import annotations

import math
import sys

__all__ = ["check_bool", "check_callable", "check_choice", "seconds", "seconds_or_none"]


def seconds(value: object, what: str, *, above_zero: bool = False, infinite: bool = False) -> float:
    """The number of seconds as a float. above_zero: 0 is refused. infinite: math.inf is accepted."""
    takes = f"{what} takes a number of seconds {'above 0' if above_zero else 'from 0 up'}"
    takes += f"{', or math.inf for no limit' if infinite else ''}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(takes)
    most = math.inf if infinite else sys.float_info.max
    if not 0 <= value <= most or (above_zero and value == 0):
        raise ValueError(takes)
    return float(value)


def seconds_or_none(value: object, what: str, *, above_zero: bool = False) -> float | None:
    """seconds(), or None as it is."""
    return None if value is None else seconds(value, what, above_zero=above_zero)


def check_callable(value: object, what: str) -> None:
    if not callable(value):
        raise TypeError(f"{what} takes a callable, not {value!r}")


def check_bool(value: object, what: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{what} takes True or False, not {value!r}")


def check_choice(value: object, what: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        named = [f'"{choice}"' for choice in choices]
        raise ValueError(f"{what} takes {', '.join(named[:-1])} or {named[-1]}, not {value!r}")
