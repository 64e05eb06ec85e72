"""Run: one run of a BackgroundThread's target, from start to end, in one process.

Guarantees: parked means that its thread is at a checkpoint, and does not leave it while another thread keeps it paused.
Its thread asks for that under the condition, before it leaves; a thread that waits for it to park looks under the
condition, after its pause has begun: so one of the two sees the other. An interval target's exceptions are reported to
threading.excepthook, and it goes on.

Why that survives fork: a Run belongs to the process that its thread began in. In a child it is over, unless its thread
is the one that forked: then that goes on in the middle of the target, and when the target ends, so does the child
(child_exit.py). No thread waits for one that vanished.

Not covered: a thread that waits at its own fork while another's is under way cannot park for that. A signal handler
that forks while threading's start() waits for the thread to begin leaves the child waiting for that; where it forks
before, start() raises RuntimeError in the child from Python 3.13 on, as threading's does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from forksafe.atfork import quiesce
from forksafe.atfork.child_exit import end_process
from forksafe.atfork.hooks import forking_idents
from forksafe.introspection.exemptions import exempt_thread
from forksafe.introspection.threads import wait_until_gone
from forksafe.locks import Condition
from forksafe_core import atfork

__all__ = ["AtFork", "Restartable", "Run"]

AtFork = Literal["restart", "stop"]

_GLANCE = 0.05  # seconds between two looks whether the thread that is waited for forks
_TEARDOWN = 0.2  # seconds to wait for the system to be done with a thread that has ended


class Restartable(quiesce.Pausable, Protocol):
    """What a Run, and what restarts it, ask of its BackgroundThread."""

    _name: str
    _daemon: bool
    _target: Callable[..., object]
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _interval: float | None
    _at_fork: AtFork
    _park_timeout: float
    _condition: Condition

    def _has_ended(self, run: Run) -> None: ...
    def _tell_to_stop(self) -> Run | None: ...
    def _restart_in_child(self) -> None: ...


class Run(threading.Thread):
    """The thread. `stopping`, `woken` and `ended` are changed with the owner's condition."""

    def __init__(self, owner: Restartable) -> None:
        super().__init__(name=owner._name, daemon=owner._daemon)
        exempt_thread(self)
        self.owner = owner
        self.starter = atfork.token()
        self.stopping = self.woken = self.ended = False
        self._condition = owner._condition
        self._generation = atfork.generation()
        self._token = 0  # of its thread, once that has begun
        self._parked = False
        self._is_gone = False  # from the system, too

    def has_begun(self) -> bool:
        return self._token != 0

    def is_inherited(self) -> bool:
        return self._generation != atfork.generation()

    def lives(self) -> bool:
        """Not ended; and in a child, the one that forked."""
        return not self.ended and (not self.is_inherited() or (self.has_begun() and not atfork.gone(self._token)))

    def is_to_stop(self) -> bool:
        return self.stopping or (self.owner._at_fork == "stop" and self.is_inherited())

    def run(self) -> None:
        self._generation = atfork.generation()  # a signal handler may have forked within start()
        self._token = atfork.token()
        failure: BaseException | None = None
        try:
            self._work()
        except BaseException as error:
            failure = error
            if not self.is_inherited():
                self._report(error)
        finally:
            self.owner._has_ended(self)
        if self.is_inherited():  # the target has forked and this is the child's only thread
            end_process(failure)

    def checkpoint(self, timeout: float | None, *, first: bool = False) -> bool:
        """True when it is to stop; False after timeout seconds, when it is woken, or at once if it is the first."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._condition:
            self._parked = True
            self._condition.notify_all()
            try:
                while True:
                    if quiesce.is_paused(self.owner, but=self._token):
                        self._condition.wait()
                        continue
                    if self.is_to_stop():
                        return True
                    left = None if deadline is None else deadline - time.monotonic()
                    if first or self.woken or (left is not None and left <= 0):
                        self.woken = self.woken and first
                        return False
                    self._condition.wait(left if left is None else min(left, threading.TIMEOUT_MAX))
            finally:
                self._parked = False

    def wait_until_parked(self, seconds: float) -> bool:
        """Wait until it is at a checkpoint or has ended. No thread waits for itself, or for one that it is starting."""
        if self is threading.current_thread() or (self.ident is None and self.starter == atfork.token()):
            return True
        deadline = time.monotonic() + seconds
        with self._condition:
            while self.lives() and not self._parked:
                left = deadline - time.monotonic()
                if left <= 0 or self.ident in forking_idents():
                    return False
                self._condition.wait(min(left, _GLANCE))
        if self.ended:
            self.wait_until_gone(min(seconds, _TEARDOWN))
        return True

    def wait_ended(self, seconds: float | None) -> bool:
        end = None if seconds is None else time.monotonic() + min(seconds, threading.TIMEOUT_MAX)
        with self._condition:
            if not self._condition.wait_for(lambda: not self.lives(), None if end is None else end - time.monotonic()):
                return False
        if self.ident is not None and not self.is_inherited():
            self.join(None if end is None else max(end - time.monotonic(), 0))
        return True

    def wait_until_gone(self, seconds: float = _TEARDOWN) -> None:
        """Wait until the system, too, is done with a thread that has ended."""
        if not self._is_gone and not self.is_inherited():
            self._is_gone = wait_until_gone([self.native_id], seconds)

    def _work(self) -> None:
        owner = self.owner
        if owner._interval is None:
            self.checkpoint(None, first=True)
            # Also if it is to stop already: for what it does at its end. Not if start() has failed.
            if not self.ended:
                owner._target(owner, *owner._args, **owner._kwargs)
            return
        while not self.checkpoint(owner._interval):
            try:
                owner._target(*owner._args, **owner._kwargs)
            except Exception as error:
                if self.is_inherited() and self.is_to_stop():
                    raise
                self._report(error)

    def _report(self, error: BaseException) -> None:
        try:
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self)))
        except BaseException as failure:
            atfork.write_unraisable(failure, threading.excepthook)
