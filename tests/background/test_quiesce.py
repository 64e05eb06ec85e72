"""Forks and blocks of quiesce() find a BackgroundThread at its checkpoint, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

import forksafe
from forksafe.atfork import gate, hooks, quiesce
from forksafe.background import run as background_runs
from support.background import (
    LIMIT,
    Account,
    Runs,
    begin,
    in_child,
    is_at,
    is_at_checkpoint,
    is_waiting,
    run_hook_last,
    sleeps,
    wait_until,
    when_asked_to_rest,
)
from support.programs import python, script, succeeds

FOR_EVER = 1000  # seconds: whoever waits so long hangs


@pytest.fixture
def account():
    return Account()


@pytest.fixture
def torn(make, account):
    """torn(...): a thread that is in the middle of changing the account."""

    def do(**options):
        thread = make(account.change, **{"interval": 0.001, **options})
        thread.start()
        account.wait_until_torn_by(thread)
        return thread

    return do


# Forks


def test_fork_waits_for_the_checkpoint(torn, account, no_hazards):
    thread = torn(park_timeout=FOR_EVER)
    join = when_asked_to_rest(thread, account.go_on)
    assert in_child(account.is_whole) is True
    join()


def test_fork_standard_thread(account):
    """Control: a thread of threading is in the middle of its work at the fork."""
    thread = threading.Thread(target=account.change, daemon=True)
    thread.start()
    account.wait_until_torn_by(thread)
    assert in_child(account.is_whole) is False
    account.go_on()
    thread.join(LIMIT)


def test_fork_time_is_up(torn, account, hazards):
    """Fork goes ahead when time is up."""
    thread = torn(name="slow flusher", park_timeout=0.05)

    def child():
        torn = not account.is_whole()
        account.go_on()
        count = account.two
        return torn, wait_until(lambda: account.two > count + 1), thread.is_alive()

    assert in_child(child) == (True, True, True)
    (warning,) = hazards
    code = Account.change.__code__
    text = str(warning.message)
    assert f"slow flusher at {code.co_filename}:{code.co_firstlineno + 2} in change did not come to rest" in text
    assert "park_timeout" in text
    account.go_on()
    assert thread.is_alive()


def test_fork_holding_its_lock(make, hazards):
    """The thread wants a lock that the forking thread holds."""
    lock, got = forksafe.Lock(), threading.Event()

    def target():
        with lock:  # the fork's
            got.set()

    thread = make(target, interval=0.001, park_timeout=0.05)
    with lock:
        thread.start()
        wait_until(lambda: is_at(thread.ident, "with lock:  # the fork's"))

        def child():
            lock.release()
            return got.wait(LIMIT)

        assert in_child(child) is True
    assert got.wait(LIMIT)
    assert len(hazards) == 1


def test_ctrl_c_while_a_fork_waits(torn, account, monkeypatch):
    """Nothing may stop a fork half-way: it goes ahead at once, and says so."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append(args.exc_type))
    thread = torn(park_timeout=FOR_EVER)
    join = interrupt_when_it_waits_for(thread)
    assert in_child(account.is_whole) is False
    join()
    assert reported == [KeyboardInterrupt]
    account.go_on()
    count = account.two
    wait_until(lambda: account.two > count + 1)


def interrupt_when_it_waits_for(thread):
    main = threading.get_ident()

    def interrupt():
        wait_until(lambda: is_waiting(thread, main))
        signal.pthread_kill(main, signal.SIGINT)

    return begin(interrupt)


def test_started_during_fork(make, no_hazards):
    """It begins when the fork is over, on both sides."""
    make(sleeps).start()  # the first of a program is not kept from beginning
    runs, seen = Runs(), []
    late = make(lambda thread: (runs(), sleeps(thread)))

    def start():
        late.start()
        wait_until(lambda: is_at_checkpoint(late))
        seen.extend(runs.pids)

    registration = forksafe.register_at_fork(before=start)
    run_hook_last()

    def child():
        return wait_until(lambda: runs.pids) and runs.pids == [os.getpid()], late.is_alive()

    assert in_child(child) == (True, True)
    registration.unregister()
    wait_until(lambda: runs.pids)
    assert runs.pids == [os.getpid()] and not seen


@pytest.mark.skipif(sys.platform != "linux", reason="only here one can ask which threads the system has")
def test_fork_after_thread_ended(make, monkeypatch, no_hazards):
    """OpenSSL holds a lock while it cleans up after a thread, when Python has done with that."""
    monkeypatch.setattr(background_runs, "_TEARDOWN", LIMIT)
    thread, there = make(sleeps, park_timeout=LIMIT), []
    registration = forksafe.register_at_fork(before=lambda: there.append(os.path.exists(task)))
    thread.start()  # its hooks are to come before that one
    run_hook_last()
    for _ in range(30):
        if not thread.is_alive():
            thread.start()
        task = f"/proc/self/task/{thread.native_id}"
        thread.stop(LIMIT)
        in_child(lambda: None)
    registration.unregister()
    assert there == [False] * 30


def test_fork_inside_a_hook(make, no_hazards):
    thread = make(sleeps, park_timeout=FOR_EVER)
    thread.start()
    results = []
    registration = forksafe.register_at_fork(before=lambda: results.append(in_child(thread.is_alive)))
    assert in_child(thread.is_alive) is True
    registration.unregister()
    assert results == [True]
    assert thread.is_alive() and not quiesce.blockers(thread)


@pytest.mark.parametrize("at_rest", [True, False], ids=["when it is at rest", "before it is at rest"])
def test_stop_in_before_hook(make, at_rest):
    """What programs did so far. Joining there a thread that is kept at rest would last for ever."""
    thread, errors = make(sleeps), []
    thread.start()

    def stop():
        thread.stop()
        try:
            thread.join()
        except RuntimeError as error:
            errors.append(str(error))

    registration = forksafe.register_at_fork(before=stop)
    if at_rest:
        run_hook_last()
    assert in_child(thread.is_alive) is False
    registration.unregister()
    assert len(errors) == at_rest and all("keeps it paused" in each for each in errors)
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_failed_fork_lets_it_go_on(make):
    runs = Runs()
    thread = make(runs, interval=0.001)
    thread.start()
    era = hooks._first_after_standard or 0
    hooks._before(era)
    assert quiesce.is_paused(thread)
    hooks._after_in_parent(era)  # the interpreter calls it then, too
    assert runs.go_on_here()


# quiesce()


def test_quiesce(torn, account, no_hazards):
    thread = torn()
    join = when_asked_to_rest(thread, account.go_on)
    with forksafe.quiesce(FOR_EVER) as busy, forksafe.quiesce(FOR_EVER) as again:
        assert busy == again == []
        assert account.is_whole()
        count = account.one
        thread.wake()
        wait_until(lambda: is_at_checkpoint(thread))
        assert account.one == count
        assert thread.stop() is False  # at once: its end cannot come before that of the block
        with pytest.raises(RuntimeError, match="keeps it paused"):
            thread.join()
        assert thread.is_alive()
    join()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_quiesce_standard_thread(account):
    """Control: quiesce() does not wait for a thread of threading."""
    thread = threading.Thread(target=account.change, daemon=True)
    thread.start()
    account.wait_until_torn_by(thread)
    with forksafe.quiesce(FOR_EVER) as busy:
        assert busy == [] and not account.is_whole()
    account.go_on()
    thread.join(LIMIT)


def test_started_within_a_block(make, no_hazards):
    answers = []
    thread = make(lambda thread: answers.append(thread.wait()))
    with forksafe.quiesce(LIMIT):
        thread.start()
        thread.wake()  # for the first checkpoint that the target itself comes to
        wait_until(lambda: is_at_checkpoint(thread))
        assert not answers and thread.is_alive()
    wait_until(lambda: answers == [False])


def test_quiesce_stop_by_other_thread(make, no_hazards):
    """That waits until the block is left."""
    thread = make(sleeps)
    thread.start()
    stopped = []
    with forksafe.quiesce(LIMIT):
        join = begin(lambda: stopped.append(thread.stop(LIMIT)))
        wait_until(lambda: len(thread._condition._waiters) == 2)
        assert not stopped
    join()
    assert stopped == [True]


def test_quiesce_names_busy_thread(torn, account, hazards):
    """A block names the busy thread, and a fork within does not wait for it again."""
    thread = torn(name="slow", park_timeout=FOR_EVER)
    code = Account.change.__code__
    where = f"{code.co_filename}:{code.co_firstlineno + 2} in change"
    with forksafe.quiesce(0.05) as (busy,):
        assert (busy.name, busy.where) == ("slow", where)
        assert in_child(lambda: 1) == 1
    assert len(hazards) == 2 and all(f"slow at {where} did not" in str(each.message) for each in hazards)
    with pytest.raises(TimeoutError, match=r"slow at .* in change"), forksafe.quiesce(0.05, strict=True):
        raise AssertionError("not reached")
    assert not quiesce.blockers(thread)
    account.go_on()
    count = account.one
    wait_until(lambda: account.one > count + 1)


def test_ctrl_c_while_quiesce_waits(torn, account):
    thread = torn()
    join = interrupt_when_it_waits_for(thread)
    with pytest.raises(KeyboardInterrupt), forksafe.quiesce(FOR_EVER):
        raise AssertionError("not reached")
    join()
    assert not quiesce.blockers(thread)
    account.go_on()
    count = account.one
    wait_until(lambda: account.one > count + 1)


def test_quiesce_by_a_target(make, no_hazards):
    """It is not waited for, and may come to its checkpoint within the block."""
    results = []
    other = make(sleeps)
    other.start()

    def loop(thread):
        with forksafe.quiesce(FOR_EVER) as busy:
            results.append((busy, thread.wait(0), wait_until(lambda: is_at_checkpoint(other))))

    thread = make(loop)
    thread.start()
    thread.join(LIMIT)
    assert results == [([], False, True)]


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_fork_within_a_block(tmp_path, fork):
    """In the child it goes on at once, in the parent when the block is left; both leave it."""
    result = python("-X", "dev", script(tmp_path / "program.py", f"""
        import ctypes, os, signal, sys, threading, time, forksafe
        sys.setswitchinterval(100)
        pids, ran = [], threading.Event()
        @forksafe.background_thread(interval=0.001)
        def flush():
            pids.append(os.getpid())
            ran.set()
        flush.start()
        assert ran.wait(30)
        lock = forksafe.Lock(hold=True)
        with forksafe.quiesce(30):
            while not flush._condition._waiters:
                time.sleep(0.001)
            del pids[:]
            ran.clear()
            pid = {fork}()
            if pid == 0:
                assert flush.is_alive() and ran.wait(30)
            else:
                assert not pids
            assert lock.locked()
        assert not lock.locked()
        assert ran.wait(30) and set(pids) == {{os.getpid()}}
        if pid == 0:
            sys.exit(5)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    """), env={"PYTHONWARNINGS": "ignore::DeprecationWarning"}, timeout=2 * LIMIT)  # fmt: skip
    succeeds(result)
    assert result.stderr == ""


def test_quiesce_of_vanished_thread(make, monkeypatch, hazards):
    """In the child; in the parent its fork has waited for the block, as long as forks wait for each other."""
    monkeypatch.setattr(gate, "GATE_TIMEOUT", 0.05)
    runs, inside, leave = Runs(), threading.Event(), threading.Event()
    thread = make(runs, interval=0.001)
    thread.start()

    def block():
        with forksafe.quiesce(LIMIT):
            inside.set()
            assert leave.wait(2 * LIMIT)

    join = begin(block)
    assert inside.wait(LIMIT)
    assert in_child(runs.go_on_here) is True
    assert quiesce.is_paused(thread)
    leave.set()
    join()
    assert runs.go_on_here()
