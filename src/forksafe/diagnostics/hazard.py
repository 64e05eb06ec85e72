"""Hazard: one thing that a fork would break, as a value: what it is, what will happen, and what cures it.

Guarantees: a hazard has names of threads, modules, types and attributes, file names and lines, and addresses of
sockets. It has no argument values, environment, contents of files or connection strings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forksafe.arguments import check_choice

__all__ = [
    "KINDS", "SEVERITIES", "Finders", "ForkHazardError", "Hazard", "Severity", "checked_kinds", "report_internal_error",
]  # fmt: skip

Severity = Literal["note", "warning", "danger"]

SEVERITIES = ("note", "warning", "danger")
KINDS = (
    "thread", "lock", "import", "write", "executor", "connection", "listener", "event loop", "file lock", "library",
    "start method",
)  # fmt: skip


@dataclass(frozen=True)
class Hazard:
    """One thing that a fork at this moment would break in the child.

    kind: "thread", "lock", "import", "write", "executor", "connection", "listener", "event loop", "file lock",
    "library" or "start method". severity: "danger", the child will hang or harm its parent if it uses this;
    "warning", it may; "note", it explains others. what: the thing itself. consequence: what will happen in the child.
    cure: what to change. module: the module it belongs to, or "". thread: the name of the thread it is about, or "".
    where: the line of code at which that thread is, or "". since: the seconds that a lock has been held, if known.
    """

    kind: str
    severity: Severity
    what: str
    consequence: str
    cure: str
    module: str = ""
    thread: str = ""
    where: str = ""
    since: float | None = None

    def __str__(self) -> str:
        place = f" [{self.thread} at {self.where}]" if self.thread and self.where else ""
        return f"{self.kind}: {self.what}{place}: {self.consequence}; {self.cure}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


Finders = dict[Callable[[], Iterable[Hazard]], tuple[str, ...]]  # a detector's functions, with the kinds they find


class ForkHazardError(RuntimeError):
    """guard("raise") refused a fork, before anything of it had run. hazards: what it would have broken."""

    __module__ = "forksafe"

    def __init__(self, message: str, hazards: list[Hazard]) -> None:
        super().__init__(message)
        self.hazards = hazards


def report_internal_error(where: str, error: BaseException) -> None:
    """Write an error of forksafe's own to stderr, in one line. The program goes on."""
    text = " ".join(str(error).split())
    os.write(2, f"forksafe: {where} of process {os.getpid()} failed: {type(error).__name__}: {text}\n".encode())


def checked_kinds(kinds: Sequence[str] | None, severity: str, function: str) -> tuple[str, ...]:
    """The kinds that a call asks for, all for None. ValueError that names the function for an unknown argument."""
    wanted = KINDS if kinds is None else tuple(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise ValueError(f"{function}(kinds) takes some of {', '.join(KINDS)}, not {kind!r}")
    check_choice(severity, f"{function}(severity)", SEVERITIES)
    return wanted
