"""guard(): warn of hazards at each fork that Python makes, log them, or refuse the fork.

Guarantees: it looks before anything of the fork has run, so that a refused one has left nothing behind: no hook has
been called, no lock taken. A program that has one thread and nothing open that could be shared pays for counting its
threads and looking at its descriptors. An error of its own is one line on stderr, and the fork goes on.

Why that survives fork: guards that are on stay so in children.

Not covered: forks that Python does not make, and those of subprocess: nobody is asked before these.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal

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


class Guard:
    """What guard() returns. As a context manager it is on until the block is left."""

    __module__ = "forksafe"

    def __init__(
        self, action: Action, kinds: tuple[str, ...], severity: Severity, modules: tuple[str, ...],
        ignore: tuple[str, ...],
    ) -> None:  # fmt: skip
        self.action = action
        self.kinds = kinds
        self.severity = severity
        self.modules = modules
        self.ignore = ignore

    def off(self) -> None:
        """Look no more. Once is enough, more does nothing."""
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

    def _wants(self, hazard: Hazard) -> bool:
        if any(_is_within(hazard.module, name) for name in self.ignore):
            return False
        return not self.modules or any(_is_within(hazard.module, name) for name in self.modules)

    def _look(self, where: str) -> None:
        found = [hazard for hazard in hazards(self.kinds, self.severity) if self._wants(hazard)]
        if found:
            _ACTIONS[self.action](found, where)


def guard(
    action: Action = "warn",
    *,
    kinds: Sequence[str] | None = None,
    severity: Severity = "warning",
    modules: Iterable[str] = (),
    ignore: Iterable[str] = (),
) -> Guard:
    """From now on look for hazards at every fork Python makes, os.fork, forkpty and multiprocessing's.

    action: "warn" issues one ForkHazardWarning for the fork, with the hazards in it; "log" writes them to the logger
    "forksafe"; "raise" refuses the fork with ForkHazardError, before anything has run. kinds: of these hazards alone;
    see hazards(). severity: from this one on, of "note", "warning" and "danger". modules: only what belongs to these
    modules and the modules within them; ignore: but for these.

    It is on until off() of what is returned is called, or until the end of the block it is used for. Several can be on.
    TypeError or ValueError for arguments that are none of these. RuntimeError if an audit hook of the program's forbids
    to listen. No effect without fork.
    """
    global _guards
    if action not in _ACTIONS:
        raise ValueError(f'guard(action) is "warn", "raise" or "log", not {action!r}')
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


def _is_within(module: str, name: str) -> bool:
    return module == name or module.startswith(name + ".")


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """While no guard is on it costs two comparisons for each event."""
    if event in _EVENTS and _guards:
        where = place_of(outward(sys._getframe(1)))
        for each in _guards:
            try:
                each._look(where)
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
