"""guard(): warn of hazards at each fork that Python makes, log them, or refuse the fork.

Guarantees: it looks before anything of the fork has run, so that a refused fork leaves nothing behind: no hook is
called, no lock taken. In a program with one thread the cost is a count of its threads and a look at its descriptors.
An error of the guard is one line on stderr, and the fork goes on.

Why that survives fork: guards that are on stay on in children.

Not covered: forks that Python does not make, and those of subprocess: they raise no audit event.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from forksafe.arguments import check_choice
from forksafe.diagnostics.hazard import ForkHazardError, Hazard, Severity, checked_kinds, report_internal_error
from forksafe.diagnostics.scan import hazards
from forksafe.errors import ForkHazardWarning
from forksafe.introspection.audit_hooks import PROBE, add_audit_hook, answer
from forksafe.introspection.stacks import outward, place_of
from forksafe.locks import Lock

__all__ = ["Guard", "guard"]

Action = Literal["warn", "raise", "log"]

_EVENTS = ("os.fork", "os.forkpty")

_changing = Lock()
_guards: tuple[Guard, ...] = ()  # replaced, never changed: forks walk it


@dataclass(eq=False, repr=False)
class Guard:
    """What guard() returns. As a context manager it is on until the end of the block."""

    __module__ = "forksafe"

    action: Action
    kinds: tuple[str, ...]
    severity: Severity
    modules: tuple[str, ...]
    ignore: tuple[str, ...]

    def off(self) -> None:
        """End this guard. More than once does nothing more."""
        global _guards
        with _changing:
            _guards = tuple(each for each in _guards if each is not self)

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.off()

    def __repr__(self) -> str:
        return f"<forksafe.Guard({self.action!r}, {'on' if self in _guards else 'off'})>"


def guard(
    action: Action = "warn",
    *,
    kinds: Sequence[str] | None = None,
    severity: Severity = "warning",
    modules: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> Guard:
    """From now on look for hazards at every fork that Python makes: os.fork, forkpty and multiprocessing's.

    action: "warn" issues one ForkHazardWarning for the fork, with the hazards in it; "log" writes them to the logger
    "forksafe"; "raise" refuses the fork with ForkHazardError, before anything has run. kinds, severity: as for
    hazards(). modules: only what belongs to these modules and the modules within them; ignore: not what belongs to
    these.

    The guard is on until its off() is called, or until the end of its `with` block. Several can be on. TypeError or
    ValueError for other arguments. RuntimeError if an audit hook of the program forbids another one. No effect on a
    platform without fork.
    """
    global _guards
    check_choice(action, "guard(action)", tuple(_ACTIONS))
    wanted = checked_kinds(kinds, severity, "guard")
    made = Guard(action, wanted, severity, _names(modules, "modules"), _names(ignore, "ignore"))
    if hasattr(os, "fork"):
        add_audit_hook(_audit, "guard()")
        with _changing:
            _guards = (*_guards, made)
    return made


def _names(given: Iterable[str], what: str) -> tuple[str, ...]:
    if isinstance(given, str):
        raise TypeError(f"guard({what}=...) takes a list of names, not the string {given!r}; for one: [{given!r}]")
    names = tuple(given)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"guard({what}=...) takes names of modules, not {name!r}")
    return names


def _check(guard: Guard, where: str) -> None:
    found = [hazard for hazard in hazards(guard.kinds, guard.severity) if _is_wanted(guard, hazard)]
    if found:
        _ACTIONS[guard.action](found, where)


def _is_wanted(guard: Guard, hazard: Hazard) -> bool:
    if any(_is_within(hazard.module, name) for name in guard.ignore):
        return False
    return not guard.modules or any(_is_within(hazard.module, name) for name in guard.modules)


def _is_within(module: str, name: str) -> bool:
    return module == name or module.startswith(name + ".")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """While no guard is on it costs two comparisons for each event."""
    if event in _EVENTS and _guards:
        where = place_of(outward(sys._getframe(1)))
        for each in _guards:
            try:
                _check(each, where)
            except (ForkHazardError, ForkHazardWarning):  # the latter with -W error
                raise
            except Exception as error:
                report_internal_error("guard()", error)
    elif event == PROBE:
        answer(_audit, args)


def _message(found: list[Hazard], where: str) -> str:
    lines = [f"this fork{f' at {where}' if where else ''} would break {len(found)} thing{'s' * (len(found) > 1)}:"]
    return "\n".join([*lines, *(f"  {hazard.severity}: {hazard}" for hazard in found)])


def _warn(found: list[Hazard], where: str) -> None:
    import warnings

    warnings.warn(_message(found, where), ForkHazardWarning, stacklevel=4)


def _log(found: list[Hazard], where: str) -> None:
    import logging

    logging.getLogger("forksafe").warning("%s", _message(found, where))


def _raise(found: list[Hazard], where: str) -> None:
    raise ForkHazardError(_message(found, where), found)


_ACTIONS: dict[str, Callable[[list[Hazard], str], None]] = {"warn": _warn, "raise": _raise, "log": _log}
