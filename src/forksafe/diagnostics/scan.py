"""hazards(): what a fork at this moment would break. The detectors find it, one for each thing looked at.

Guarantees: nothing is changed, taken or waited for. What a detector cannot look at is left out, and a detector that
fails is reported on stderr. What forksafe takes care of is no hazard.

Not covered: locks that only C code can reach. A lock that is taken and released all the time is found only if it is
held at that moment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from forksafe.diagnostics.detectors import descriptors, executors, imports, locks, threads
from forksafe.diagnostics.hazard import SEVERITIES, Hazard, Severity, checked_kinds, report_internal_error
from forksafe.introspection.stacks import has_single_stack

__all__ = ["hazards"]

_DETECTORS = (threads, locks, imports, executors, descriptors)


def hazards(kinds: Sequence[str] | None = None, severity: Severity = "note") -> list[Hazard]:
    """What a fork by the calling thread would break at this moment, the worst first.

    kinds: only these; see Hazard. severity: the least one to report: "note", "warning" or "danger". ValueError for
    others. The list is empty on a platform without fork.
    With several threads it looks at every object of the program, which takes a tenth of a second and more. With a
    single thread it looks at descriptors only.
    """
    wanted = checked_kinds(kinds, severity, "hazards")
    if not hasattr(os, "fork"):
        return []
    if severity != "note" and has_single_stack():  # it would be a note, and takes longer than all the rest
        wanted = tuple(kind for kind in wanted if kind != "library")
    found: list[Hazard] = []
    for detector in _DETECTORS:
        for finder, finds in detector.FINDERS.items():
            try:
                found += finder() if set(finds) & set(wanted) else ()
            except Exception as error:
                report_internal_error("hazards()", error)
    rank = SEVERITIES.index
    found = [each for each in found if each.kind in wanted and rank(each.severity) >= rank(severity)]
    return sorted(found, key=lambda each: -rank(each.severity))
