"""What the tests of BackgroundThread share: threads known to be in the middle of something, or at their checkpoint."""

from __future__ import annotations

import linecache
import os
import sys
import threading
import time

from forksafe.atfork import hooks, quiesce
from forksafe.testing import run_in_child

LIMIT = 30  # seconds that only a hang reaches


def wait_until(condition):
    """True, once it holds."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)
    return True


def in_child(function, **more):
    """What it returns in a forked child, in which it may itself wait."""
    return run_in_child(function, 2 * LIMIT, **more)


def is_at(ident, text):
    """Whether that thread is in the middle of a line with this text."""
    frame = sys._current_frames().get(ident)
    return frame is not None and text in linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def is_at_checkpoint(thread):
    """Not on its way through, nor just woken: there it sleeps."""
    run = thread._run
    return run is not None and run._parked and is_waiting(thread, run.ident)


def is_waiting(thread, ident):
    """Whether the thread with that ident waits for that one to change."""
    return is_at(ident, "notified = waiter.acquire") and len(thread._condition._waiters) > 0


def sleeps(thread):
    """A loop that has nothing to do."""
    while not thread.wait():
        pass


def begin(function):
    """Have a thread run it, and fail with it when it is joined."""
    errors = []

    def run():
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join():
        thread.join(LIMIT)
        assert not thread.is_alive() and not errors, errors

    return join


def when_asked_to_rest(thread, then):
    """Calls then() once a fork or block waits for `thread`, and not before. Returns a function that joins."""

    def watch():
        wait_until(lambda: quiesce.is_paused(thread))
        then()

    return begin(watch)


class Account:
    """Two numbers that a thread changes one after the other; torn while they differ."""

    def __init__(self):
        self.one = self.two = 0
        self._gate = threading.Lock()
        self._gate.acquire()

    def change(self, *_):
        self.one += 1
        with self._gate:  # closed until go_on() is called
            self.two += 1

    def wait_until_torn_by(self, thread):
        wait_until(lambda: is_at(thread.ident, "with self._gate"))

    def go_on(self):
        self._gate.release()

    def is_whole(self):
        return self.one == self.two


class Runs:
    """A target of an interval thread, and in which processes it ran."""

    def __init__(self):
        self.pids = []

    def __call__(self):
        self.pids.append(os.getpid())

    def go_on_here(self):
        """True, once it was run some more times, by this process alone."""
        del self.pids[:]
        wait_until(lambda: len(self.pids) > 2)
        return set(self.pids) == {os.getpid()}


def run_hook_last():
    """Move the hooks registered last behind all others: their `before` then runs when the rest is under way."""
    *others, last = hooks._registrations
    hooks._registrations = (last, *others)
