"""protect() for threading.Timer: it runs in children, too."""

from __future__ import annotations

import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.programs import python, script, succeeds
from support.threads import until

# Timer


class Repeating(threading.Timer):
    """As half the world writes it."""

    def run(self):
        while not self.finished.wait(self.interval):
            self.function(*self.args, **self.kwargs)


@pytest.mark.parametrize("kind", [threading.Timer, Repeating])
def test_the_child_has_it_running(kind, fork):
    called = []
    timer = forksafe.protect(kind(0.05 if kind is Repeating else 3600, called.append, ["called"]))
    timer.start()

    def child():
        forksafe.generation()
        called.clear()
        alive, daemon = timer.is_alive(), timer.daemon
        fired = until(lambda: len(called) > 2) if kind is Repeating else called == []
        timer.cancel()
        timer.join(20)
        return alive, daemon, fired, timer.is_alive()

    assert run_in_child(child, 30, fork=fork) == (True, True, True, False)
    assert timer.is_alive()
    timer.cancel()
    timer.join(20)
    assert run_in_child(lambda: timer.is_alive()) is False


def test_its_time_begins_anew_in_the_child():
    fired = threading.Event()
    timer = forksafe.protect(threading.Timer(0.5, fired.set))
    timer.start()
    assert run_in_child(lambda: fired.wait(20)) is True
    assert fired.wait(20)
    timer.join(20)
    assert run_in_child(lambda: timer.is_alive()) is False, "it has finished"


def test_control_unprotected_it_never_fires():
    fired = threading.Event()
    timer = threading.Timer(0.2, fired.set)
    timer.start()
    assert run_in_child(lambda: (timer.is_alive(), fired.wait(1))) == (False, False)
    timer.join(20)
    assert fired.is_set()


def test_cancelled_ones_are_left_alone():
    cancelled = forksafe.protect(threading.Timer(3600, print))
    cancelled.start()
    cancelled.cancel()
    assert run_in_child(cancelled.is_alive) is False
    cancelled.join(20)
    assert run_in_child(cancelled.is_alive) is False


def test_a_timer_that_forks_goes_on(tmp_path):
    succeeds(python("-W", "ignore", script(tmp_path / "program.py", """
        import forksafe, os, threading
        forked = []
        class Repeating(threading.Timer):
            def run(self):
                while not self.finished.wait(self.interval):
                    self.function()
        def fork():
            if not forked:
                forked.append(os.fork())
            elif forked == [0]:
                os._exit(7)
            else:
                timer.cancel()
        timer = forksafe.protect(Repeating(0.01, fork))
        timer.start()
        timer.join(20)
        assert os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]) == 7
    """)))  # fmt: skip


def test_timer_at_child_exit(tmp_path):
    """A child does not wait for it at its end."""
    succeeds(python("-W", "ignore", script(tmp_path / "program.py", """
        import forksafe, os, sys, threading
        timer = forksafe.protect(threading.Timer(3600, print))
        timer.start()
        pid = os.fork()
        if pid == 0:
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        timer.cancel()
    """)))  # fmt: skip


def test_unprotect():
    timer = forksafe.unprotect(forksafe.protect(threading.Timer(3600, print)))
    timer.start()
    assert run_in_child(timer.is_alive) is False
    timer.cancel()
    timer.join(20)
