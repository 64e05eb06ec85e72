"""FORKSAFE_WATCHDOG=seconds: a child that is blocked for longer reports on stderr, once, what it is blocked on.

Guarantees: each child watches itself, with a daemon thread that is ended before each of the child's own forks. The
program is not changed, and goes on as it would. The report is one write to descriptor 2. An error of the watchdog is
reported in one line, and the program goes on.

Why that survives fork: the snapshot is taken in the parent before each fork; each child starts a thread of its own.

Not covered: children of forks that Python did not make, until forksafe is first called in them. A child that computes
without end is not blocked.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from forksafe.atfork import hooks
from forksafe.atfork.hooks import register_at_fork
from forksafe.diagnostics.hangs.hang import Hang, Watch
from forksafe.diagnostics.hangs.snapshot import Snapshot, take_snapshot
from forksafe.diagnostics.hazard import report_internal_error
from forksafe.introspection.stacks import outward
from forksafe.introspection.threads import add_helper, is_single_threaded, wait_until_gone
from forksafe_core import atfork

__all__ = ["Watchdog", "start_if_asked"]

_PATIENCE = 1.0  # seconds to wait for the thread's end: it may be in the middle of a look
_EACH = 20  # so many forks take a snapshot each; after that one a second, so that a storm is not slowed down


class Watchdog:
    """Watches in every child from now on. report: called with what a child hangs on, once in each."""

    def __init__(self, seconds: float, report: Callable[[Hang], object]) -> None:
        self._seconds = seconds
        self._report = report
        self._snapshot: Snapshot | None = None
        self._forks, self._looked = 0, 0.0
        self._watch: Watch | None = None  # in a child that has reported nothing yet
        self._thread: threading.Thread | None = None
        self._enough = threading.Event()
        atfork.keep_alive(self)  # hooks hold methods weakly
        register_at_fork(
            before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
        )

    def _before(self) -> None:
        self._end()
        now = time.monotonic()
        self._forks += 1
        known = self._snapshot
        if known is None or self._forks <= _EACH or now - self._looked > 1 or known.pid != os.getpid():
            try:
                self._snapshot, self._looked = take_snapshot(), time.monotonic()
            except Exception as error:
                self._snapshot = None
                report_internal_error("the watchdog", error)

    def _after_in_parent(self) -> None:
        if self._watch is not None and not (is_single_threaded() and atfork.call_soon(self._begin_when_forked)):
            self._begin()

    def _begin_when_forked(self) -> bool:
        """From 3.12 on CPython looks for other threads when the hooks have run, and warns of the fork if there are.

        True to be called again.
        """
        if any(frame.f_code.co_filename == hooks.__file__ for frame in outward(sys._getframe(1))):
            return True
        self._begin()
        return False

    def _after_in_child(self) -> None:
        snapshot = self._snapshot
        self._watch = self._thread = None
        if snapshot is not None and snapshot.pid != os.getpid():
            self._watch = Watch(snapshot, self._seconds)
            self._begin()

    def _begin(self) -> None:
        watch = self._watch
        if watch is None or (self._thread is not None and self._thread.is_alive()):
            return
        self._enough = enough = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(watch, enough), name="forksafe-watchdog", daemon=True)
        watch.ignore = self._thread
        add_helper(self._thread)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread can be started
            self._watch = self._thread = None
            report_internal_error("the watchdog", error)

    def _end(self) -> None:
        """A fork must not find the watching thread, and neither must a count of threads."""
        thread, self._thread = self._thread, None
        self._enough.set()
        if thread is not None:
            thread.join(_PATIENCE)
            wait_until_gone([thread.native_id], _PATIENCE)  # CPython warns of a fork beside it

    def _look(self, watch: Watch, enough: threading.Event) -> None:
        while not enough.wait(min(max(self._seconds / 4, 0.05), 1.0)):
            try:
                found = watch.look()
                if found is not None:
                    self._watch = None
                    self._report(found)
                    return
            except Exception as error:
                self._watch = None
                report_internal_error("the watchdog", error)
                return


def _write_report(found: Hang) -> None:
    process = f"process {os.getpid()} (generation {atfork.generation()})"
    os.write(2, f"forksafe: {process} has been blocked for {found.seconds:.1f} s\n{found.text()}".encode())


def start_if_asked() -> None:
    """Called when forksafe is imported and FORKSAFE_WATCHDOG is set."""
    given = os.environ.get("FORKSAFE_WATCHDOG", "")
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if seconds > 0:
        Watchdog(seconds, _write_report)
    else:
        os.write(2, f"forksafe: FORKSAFE_WATCHDOG takes a number of seconds above 0, not {given!r}\n".encode())
