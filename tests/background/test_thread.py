"""BackgroundThread by itself: started, woken, stopped, joined, as threading's threads are."""

from __future__ import annotations

import copy
import pickle
import signal
import sys
import threading

import pytest

from forksafe import BackgroundThread, background_thread, quiesce
from forksafe.background import restart
from support.background import LIMIT, Account, begin, is_at_checkpoint, is_waiting, sleeps, wait_until
from support.programs import python, script, succeeds


def test_interval(make):
    calls = []
    thread = make(lambda *args, **kwargs: calls.append((args, kwargs)), interval=0.001, args=(1,), kwargs={"b": 2})
    assert not thread.is_alive() and thread.ident is None and thread.native_id is None
    thread.start()
    wait_until(lambda: len(calls) > 3)
    assert calls[0] == ((1,), {"b": 2})
    assert thread.is_alive() and thread.running
    assert thread.stop(LIMIT) is True
    assert not thread.is_alive() and not thread.running
    count = len(calls)
    assert thread.stop() is True and len(calls) == count


def test_wake_runs_it_now(make):
    ran = threading.Event()
    thread = make(ran.set, interval=3600)
    thread.wake()  # not running: nothing
    thread.start()
    wait_until(lambda: is_at_checkpoint(thread))
    assert not ran.is_set()
    thread.wake()
    assert ran.wait(LIMIT)


def test_huge_interval(make):
    thread = make(lambda: None, interval=1e30)
    thread.start()
    wait_until(lambda: is_at_checkpoint(thread))
    assert thread.stop(LIMIT)


def test_loop(make):
    seen, answers = [], []

    def loop(thread, what):
        seen.append((thread, what, BackgroundThread.current(), threading.get_ident(), threading.current_thread().name))
        answers.append(thread.wait(0))
        answers.append(thread.wait())
        answers.append(thread.wait())
        answers.append(thread.running)

    thread = make(loop, args=("x",), name="the loop")
    thread.start()
    wait_until(lambda: len(answers) == 1 and is_at_checkpoint(thread))
    assert seen == [(thread, "x", thread, thread.ident, "the loop")]
    assert thread.ident in [each.ident for each in threading.enumerate()]
    thread.wake()
    wait_until(lambda: len(answers) == 2 and is_at_checkpoint(thread))
    assert thread.stop(LIMIT)
    assert answers == [False, False, True, False]
    assert BackgroundThread.current() is None


def test_wake_before_first_checkpoint(make):
    """wake() before the first checkpoint is not lost."""
    inside, go_on, answers = threading.Event(), threading.Event(), []

    def loop(thread):
        inside.set()
        go_on.wait(LIMIT)
        answers.append(thread.wait(LIMIT))

    thread = make(loop)
    thread.start()
    assert inside.wait(LIMIT)
    thread.wake()
    thread.wake()
    go_on.set()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert answers == [False]


def test_starting_again(make):
    thread = make(sleeps)
    thread.start()
    first = thread._run
    with pytest.raises(RuntimeError, match="it is running; stop"):
        thread.start()
    assert thread.stop(LIMIT)
    thread.start()
    assert thread.is_alive() and thread._run is not first


def test_stop_without_wait(make):
    """stop() without waiting, and by the thread itself."""
    stopped = []

    def loop(thread):
        stopped.append(thread.stop())
        stopped.append(thread.wait())

    thread = make(loop)
    thread.start()
    thread.join(LIMIT)
    assert stopped == [False, True]
    thread = make(sleeps)
    thread.start()
    assert thread.stop(wait=False) is False
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_stop_before_loop_begins(make):
    """For what it does at its end: nothing that was handed to it is lost."""
    told = []
    thread = make(lambda thread: told.append(thread.wait(LIMIT)))
    with quiesce():
        thread.start()
        assert not thread.stop()
    thread.join(LIMIT)
    assert told == [True]


def test_stop_that_takes_too_long(make):
    account = Account()
    thread = make(account.change)
    thread.start()
    account.wait_until_torn_by(thread)
    assert thread.stop(0.01) is False
    assert thread.is_alive() and not thread.running and "stopping" in repr(thread)
    thread.join(0.01)
    assert thread.is_alive()
    account.go_on()
    assert thread.stop(LIMIT) is True


def test_join_that_cannot_end(make):
    raised = []

    def loop(thread):
        try:
            thread.join()
        except RuntimeError as error:
            raised.append(str(error))

    thread = make(loop)
    with pytest.raises(RuntimeError, match="never started"):
        thread.join()
    thread.start()
    thread.join(LIMIT)
    assert "this is the thread itself" in raised[0]


def test_wait_is_for_the_target(make):
    thread, errors = make(sleeps), []
    with pytest.raises(RuntimeError, match="use join"):
        thread.wait()

    def other(_):
        try:
            thread.wait()
        except RuntimeError as error:
            errors.append(error)

    make(other).start()
    wait_until(lambda: errors)


def test_exceptions(make, monkeypatch):
    reported, calls = [], []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append((args.exc_type, args.thread.name)))

    def fails(*_):
        calls.append(1)
        raise ZeroDivisionError

    thread = make(fails, interval=0.001, name="flusher")
    thread.start()
    wait_until(lambda: len(calls) > 2)
    assert thread.is_alive()
    thread.stop(LIMIT)
    assert set(reported) == {(ZeroDivisionError, "flusher")}
    del reported[:], calls[:]
    thread = make(fails, name="loop")
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert reported == [(ZeroDivisionError, "loop")] and calls == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # as for any thread
def test_sys_exit_ends_it(make, capfd):
    thread = make(lambda: sys.exit(3), interval=0.001)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert capfd.readouterr().err == ""


def test_excepthook_that_fails(make, monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: unraisable.append(args.exc_type))
    monkeypatch.setattr(threading, "excepthook", lambda args: 1 / 0)

    def fails():
        raise KeyError

    thread = make(fails, interval=0.001)
    thread.start()
    wait_until(lambda: len(unraisable) > 1)
    assert unraisable[0] is ZeroDivisionError and thread.is_alive()


def test_decorator(make):
    @background_thread
    def loop(thread):
        """Flush everything."""

    @background_thread(interval=10, at_fork="stop", name="n", park_timeout=1, daemon=False)
    def flush():
        return 5

    assert isinstance(loop, BackgroundThread) and isinstance(flush, BackgroundThread)
    assert loop.__doc__ == "Flush everything." and not loop.is_alive()
    assert "(loop)" in loop.name and loop.interval is None and loop.at_fork == "restart" and loop.daemon is True
    assert (flush.interval, flush.at_fork, flush.name, flush.park_timeout, flush.daemon) == (10, "stop", "n", 1, False)
    assert flush.target() == 5
    assert repr(flush) == "<BackgroundThread(n, every 10 s, not started)>"


async def coroutine():
    pass


def generator():
    yield


@pytest.mark.parametrize(("options", "error", "message"), [
    ({"target": 3}, TypeError, r"target\) takes a callable, not 3"),
    ({"target": coroutine}, TypeError, "takes a plain function"),
    ({"target": generator}, TypeError, "takes a plain function"),
    ({"interval": "1"}, TypeError, r"interval\) takes a number of seconds above 0, not '1'"),
    ({"interval": True}, TypeError, r"interval\) takes a number of seconds above 0, not True"),
    ({"interval": 0}, ValueError, r"interval\) takes a number of seconds above 0"),
    ({"interval": -1}, ValueError, r"interval\) takes a number of seconds above 0, not -1"),
    ({"interval": float("nan")}, ValueError, r"interval\) takes a number of seconds above 0, not nan"),
    ({"park_timeout": -1}, ValueError, r"park_timeout\) takes a number of seconds from 0 up, not -1"),
    ({"park_timeout": None}, TypeError, r"park_timeout\) takes a number of seconds from 0 up, not None"),
    ({"at_fork": "reset"}, ValueError, 'at_fork.* takes "restart" or "stop", not \'reset\''),
    ({"name": 3}, TypeError, r"name\) takes a string, not 3"),
    ({"args": "abc"}, TypeError, r"args\) takes a tuple of arguments, not 'abc'"),
    ({"kwargs": [1]}, TypeError, r"kwargs\) takes a dictionary"),
    ({"daemon": 1}, TypeError, r"daemon\) takes True or False, not 1"),
])  # fmt: skip
def test_bad_input(options, error, message):
    with pytest.raises(error, match=message):
        BackgroundThread(options.pop("target", sleeps), **options)


@pytest.mark.parametrize("method", ["stop", "join"])
@pytest.mark.parametrize(("value", "error"), [("1", TypeError), (True, TypeError), (-1, ValueError)])
def test_bad_timeouts(make, method, value, error):
    with pytest.raises(error, match=rf"{method}\(timeout\) takes a number of seconds"):
        getattr(make(sleeps), method)(value)


def test_it_cannot_be_copied(make):
    thread = make(sleeps)
    for function in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be pickled or copied"):
            function(thread)


def test_start_fails(make, monkeypatch):
    """A thread that cannot be started."""
    thread = make(sleeps)

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            thread.start()
        assert not thread.is_alive() and not restart.started
    thread.start()
    assert thread.is_alive()


@pytest.mark.parametrize("method", ["stop", "join"])
def test_join_interrupted(make, method):
    """Ctrl-C comes while the end of the thread is waited for."""
    account = Account()
    thread = make(account.change)
    thread.start()
    account.wait_until_torn_by(thread)
    main = threading.get_ident()

    def interrupt():
        wait_until(lambda: is_waiting(thread, main))
        signal.pthread_kill(main, signal.SIGINT)

    join = begin(interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(thread, method)()
    join()
    assert thread.is_alive()
    account.go_on()
    thread.join(LIMIT)
    assert account.is_whole() and not thread.is_alive()


def test_ctrl_c_while_it_is_started(make, monkeypatch):
    """It may have begun by then, and ends at its next checkpoint; it counts as running until it does."""
    account = Account()
    thread = make(lambda thread: (account.change(), sleeps(thread)))
    start = threading.Thread.start

    def interrupted(self):
        start(self)
        account.wait_until_torn_by(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            thread.start()
    assert thread.is_alive() and not thread.running
    account.go_on()
    thread.join(LIMIT)
    assert not thread.is_alive()
    thread.start()
    assert thread.running


def test_no_thread_no_hooks():
    succeeds(python("-c", "from forksafe import BackgroundThread; from forksafe.atfork import hooks;"
                    "BackgroundThread(print, interval=1); assert not hooks._registrations"))  # fmt: skip


def test_where_there_is_no_fork(tmp_path):
    """As a plain thread, and quiesce() brings it to rest."""
    result = python(script(tmp_path / "program.py", """
        import os
        del os.fork, os.register_at_fork
        import threading, time, forksafe, forksafe_core
        assert forksafe_core.IMPL == "pure"
        ran = threading.Event()
        thread = forksafe.BackgroundThread(ran.set, interval=3600)
        thread.start()
        with forksafe.quiesce(30) as busy:
            assert busy == []
            thread.wake()
            while not thread._condition._waiters:
                time.sleep(0.001)
            assert not ran.is_set()
        assert ran.wait(30)
        assert thread.stop(30) and not thread.is_alive()
        thread.start()
    """))  # fmt: skip
    succeeds(result)
    assert result.stderr == ""
