"""Hazards that are modules: imports under way, native libraries that a fork breaks, multiprocessing's start method.

Guarantees: nothing is imported to find out. Libraries are recognized by the files that are mapped into the process.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from forksafe.diagnostics.hazard import Finders, Hazard, Severity
from forksafe.introspection.exemptions import is_installed
from forksafe.introspection.stacks import frames_of, has_single_stack, other_threads, place_of

__all__ = ["FINDERS", "imports_under_way"]

_LIBRARIES = {
    r"libgomp|libiomp5|libomp": (
        "OpenMP",
        "a parallel region in the child may wait for vanished threads",
    ),
    r"openblas|libmkl": (
        "a threaded BLAS",
        "a matrix product in the child may wait for vanished threads",
    ),
    r"cygrpc|libgrpc": ("gRPC", "channels of the parent hang in the child: its threads do not exist there"),
    r"libcuda\.so|libcudart": ("CUDA", "the child cannot use a context that the parent has made: it fails there"),
    r"libtorch": ("PyTorch", "operations in the child may wait for vanished threads"),
}
_SPAWN = "use forksafe.get_context() (forkserver or spawn while there are threads), or fork before it is used"


def imports_under_way() -> Iterator[tuple[str, threading.Thread]]:
    """The modules that other threads are importing, the innermost of each thread."""
    for thread in other_threads():
        frames = list(frames_of(thread))
        for n, frame in enumerate(frames):
            code = frame.f_code
            if code.co_name == "_find_and_load_unlocked" or (code.co_name, code.co_filename) == (
                "_call_with_frames_removed",
                "<frozen importlib._bootstrap>",
            ):
                name = _imported(frames[n:])
                if name:
                    yield name, thread
                    break


def _imports() -> Iterable[Hazard]:
    for name, thread in () if has_single_stack() or is_installed() else imports_under_way():
        yield Hazard(
            "import",
            "danger",
            f"the import of {name}, which another thread is in the middle of",
            "half made in the child, and its import lock is held: importing it there hangs or finds it empty",
            "import it before there are threads, or use forksafe run, which has the child import it anew",
            module=name.partition(".")[0],
            thread=thread.name,
            where=place_of(frames_of(thread)),
        )


def _imported(frames: list[Any]) -> str:
    for frame in frames:
        if frame.f_code.co_name in ("_find_and_load", "_find_and_load_unlocked"):
            return str(frame.f_locals.get("name", ""))
    return ""


def _libraries() -> Iterable[Hazard]:
    try:
        with open("/proc/self/maps") as file:
            mapped = {line.split(maxsplit=5)[5].strip() for line in file if "/" in line and ".so" in line}
    except OSError:
        return
    files = sorted({path.rpartition("/")[2] for path in mapped})
    for pattern, (name, consequence) in _LIBRARIES.items():
        found = [each for each in files if re.search(pattern, each)]
        if found:
            severity: Severity = "note" if has_single_stack() else "warning"
            yield Hazard("library", severity, f"{name} is loaded ({found[0]})", consequence, _SPAWN)


def _start_method() -> Iterable[Hazard]:
    module: Any = sys.modules.get("multiprocessing.context")
    if module is None or has_single_stack() or threading.active_count() == 1:
        return
    default = module._default_context
    actual = default._actual_context
    method = (actual or default._default_context).get_start_method(allow_none=True)
    if method == "fork":
        yield Hazard(
            "start method",
            "note",
            "multiprocessing starts processes by fork",
            "each of its processes finds all of this broken",
            "use forksafe.get_context(), which forks only while there is one thread",
            module="multiprocessing",
        )


FINDERS: Finders = {_imports: ("import",), _libraries: ("library",), _start_method: ("start method",)}
