"""hazards(): what a fork at this moment would break, as values: what it is, what will happen, and what cures it.

Guarantees: nothing is changed, taken or waited for; what cannot be looked at is left out. No argument values, no
environment, no contents of files and no connection strings are in it: names of threads, modules, types and
attributes, file names and lines, addresses of sockets. What forksafe takes care of is no hazard.

Not covered: locks that only C code can reach. A lock that is taken and given back all the time is found only if it is
held just now.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["KINDS", "SEVERITIES", "Hazard", "Severity", "checked", "complain", "hazards"]

Severity = Literal["note", "warning", "danger"]

SEVERITIES = ("note", "warning", "danger")
KINDS = (
    "thread",
    "lock",
    "import",
    "write",
    "executor",
    "connection",
    "listener",
    "event loop",
    "file lock",
    "library",
    "start method",
)


@dataclass(frozen=True)
class Hazard:
    """One thing that a fork just now would break in the child, or through it.

    kind: one of KINDS. severity: "danger", the child will hang or harm its parent if it uses this; "warning", it may;
    "note", it explains others. what: the thing itself. consequence: what will happen in the child. cure: what to
    change. module: the module it belongs to, "" if none. thread: the name of the thread it is about. where: the line
    of code that thread is at. since: seconds that a lock has been held, where that is known.
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


def complain(whose: str, error: BaseException) -> None:
    """What fails in here is one line on stderr, and the program goes on."""
    text = " ".join(str(error).split())
    os.write(2, f"forksafe: {whose} of process {os.getpid()} failed: {type(error).__name__}: {text}\n".encode())


def checked(kinds: Sequence[str] | None, severity: str, whose: str) -> tuple[str, ...]:
    """The kinds that are meant. ValueError, which names the function, for a kind or a severity that there is not."""
    wanted = KINDS if kinds is None else tuple(kinds)
    for kind in wanted:
        if kind not in KINDS:
            raise ValueError(f"{whose}(kinds=...) takes some of {', '.join(KINDS)}, not {kind!r}")
    if severity not in SEVERITIES:
        raise ValueError(f'{whose}(severity=...) is "note", "warning" or "danger", not {severity!r}')
    return wanted


Finder = Callable[[], Iterable[Hazard]]


def hazards(kinds: Sequence[str] | None = None, severity: Severity = "note") -> list[Hazard]:
    """What a fork by the calling thread would break at this moment, the worst first.

    kinds: of these alone; see KINDS. severity: from this one on, of "note", "warning" and "danger". ValueError for one
    that there is not. An empty list where there is no fork.
    It looks at every object of the program if there are threads, which takes a tenth of a second and more; with a
    single thread it only looks at descriptors.
    """
    wanted = checked(kinds, severity, "hazards")
    if not hasattr(os, "fork"):
        return []
    from forksafe.diagnostics.detectors import descriptors as seen_descriptors
    from forksafe.diagnostics.detectors import executors as seen_executors
    from forksafe.diagnostics.detectors import imports as seen_modules
    from forksafe.diagnostics.detectors import locks as seen_locks
    from forksafe.diagnostics.detectors import threads as seen_threads

    if severity != "note" and seen_threads.is_alone():  # it would be a note, and takes longer than all the rest
        wanted = tuple(kind for kind in wanted if kind != "library")
    found: list[Hazard] = []
    for finders in (seen_threads, seen_locks, seen_modules, seen_executors, seen_descriptors):
        for finder, finds in finders.FINDERS.items():
            try:
                found += finder() if set(finds) & set(wanted) else ()
            except Exception as error:  # a report with a gap is better than a program without a fork
                complain("hazards()", error)
    rank = SEVERITIES.index
    found = [each for each in found if each.kind in wanted and rank(each.severity) >= rank(severity)]
    return sorted(found, key=lambda each: -rank(each.severity))
