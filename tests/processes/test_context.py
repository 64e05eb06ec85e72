"""get_context() and get_start_method(): how processes are started, and what they and the context can be used for."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import sys
import threading

import pytest

from forksafe.processes import process, start_method
from forksafe.processes.context import get_context
from forksafe.processes.start_method import get_start_method
from forksafe.testing import run_in_child
from support.process_targets import have_children, hold, lock, start_one, take_lock, use_context
from support.processes import CONTEXT, LIMIT, LINUX, Among, answer, ask, in_thread, linux


@pytest.fixture
def patient(monkeypatch):
    """However long the system takes to have done with a thread that has been joined."""
    monkeypatch.setattr(start_method, "SETTLE_TIMEOUT", LIMIT)


# How a process can be started


@linux
def test_one_thread():
    assert run_in_child(get_start_method) == "fork"
    assert run_in_child(CONTEXT.get_start_method) == "fork"


@linux
def test_a_thread():
    def child():
        with Among():
            return get_start_method(), CONTEXT.get_start_method()

    assert run_in_child(child, LIMIT) == ("forkserver", "forkserver")


@linux
def test_a_thread_that_has_ended(patient):
    def child():
        for _ in range(20):
            with Among():
                pass
        return get_start_method()

    assert run_in_child(child, LIMIT) == "fork"


@linux
def test_a_native_thread():
    """The control is what Python knows of."""

    def child():
        libc = ctypes.CDLL(None)
        assert libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, libc.pause, None) == 0
        return threading.active_count(), get_start_method()

    assert run_in_child(child, LIMIT) == (1, "forkserver")


def test_no_forkserver(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["fork", "spawn"])
    with Among():
        assert get_start_method() == "spawn"
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert run_in_child(get_start_method) == "spawn"


def test_threads_not_countable(monkeypatch):
    """Threads that cannot be counted."""

    def no_proc(path, **_):
        raise FileNotFoundError(path)

    def child():
        monkeypatch.setattr(os, "stat", no_proc)
        try:
            return get_start_method()
        finally:
            monkeypatch.undo()

    assert run_in_child(child, LIMIT) == "forkserver"


def test_it_is_a_context():
    assert isinstance(CONTEXT, multiprocessing.context.BaseContext)
    assert get_context() is CONTEXT and CONTEXT.get_context() is CONTEXT
    assert pickle.loads(pickle.dumps(CONTEXT)) is CONTEXT
    assert CONTEXT.get_context("spawn") is multiprocessing.get_context("spawn")
    with pytest.raises(ValueError, match="start method"):
        CONTEXT.set_start_method("fork")


@linux
def test_decided_at_each_start(patient):
    def child():
        methods = [ask()[0]]
        with Among():
            methods.append(ask()[0])
        methods.append(ask()[0])
        return methods

    assert run_in_child(child, LIMIT) == ["fork", "forkserver", "fork"]


@linux
def test_what_only_fork_can_pass():
    def child():
        (method, (_, parent)) = ask(lambda writer: answer(writer))
        return method, parent == os.getpid()

    assert run_in_child(child, LIMIT) == ("fork", True)


def test_what_cannot_be_pickled():
    reader, _ = CONTEXT.Pipe(False)
    before = len(os.listdir("/dev/fd"))
    with Among(), pytest.raises((AttributeError, pickle.PicklingError), match="lambda") as raised:
        CONTEXT.Process(target=lambda: reader, daemon=True).start()
    if sys.version_info >= (3, 11):
        assert any("must be picklable" in note for note in raised.value.__notes__)
    raised = None
    if multiprocessing.resource_tracker._resource_tracker._fd is not None:
        assert len(os.listdir("/dev/fd")) <= before + 4  # forkserver's and the tracker's own


def test_spawned(monkeypatch):
    monkeypatch.setattr(process, "get_start_method", lambda: "spawn")
    method, (pid, parent) = ask()
    assert method == "spawn" and parent == os.getpid() and pid != parent


def test_not_twice_and_not_by_others():
    process = CONTEXT.Process(target=int)

    def child():
        with pytest.raises(AssertionError, match="created by current process"):
            process.start()

    run_in_child(child, LIMIT)
    process.start()
    with pytest.raises(AssertionError, match="twice"):
        process.start()
    process.join(LIMIT)
    process.close()
    with pytest.raises(ValueError, match="closed"):
        process.start()


@linux
def test_nothing_stays_open():
    def child():
        ask(daemon=True)
        with Among():
            ask(daemon=True)
            before = os.listdir("/dev/fd")
            ask(daemon=True)
        ask(daemon=True)
        return before == os.listdir("/dev/fd")

    assert run_in_child(child, LIMIT)


CONTEXTS = {"forksafe": lambda: CONTEXT, "the control": lambda: multiprocessing.get_context("fork")}


@pytest.mark.parametrize("name", list(CONTEXTS))
def test_a_lock_that_a_thread_holds(name, busy):
    holder = busy(lock.acquire, lock.release)
    reader, writer = CONTEXT.Pipe(False)
    process = CONTEXTS[name]().Process(target=take_lock, args=(writer,))
    process.start()
    try:
        answered = reader.poll(LIMIT if name == "forksafe" else 1)
    finally:
        process.kill()
        process.join(LIMIT)
        holder.end()
    assert answered == (name == "forksafe")


# What contexts are used for


def test_everything_from_one_thread():
    """Used everywhere from one thread."""
    run_in_child(use_context, LIMIT)


def test_used_everywhere_among_threads():
    def child():
        with Among():
            use_context()

    run_in_child(child, LIMIT)


def test_everything_in_worker_thread():
    """Used everywhere in a worker thread."""
    in_thread(use_context)


@pytest.mark.parametrize("name", list(CONTEXTS))
def test_lock_made_before_threads(name):
    """The control is a lock of the standard fork context, which another process cannot find."""

    def child():
        given = CONTEXTS[name]().Lock()
        with Among():
            return ask(hold, given)

    if name == "forksafe":
        assert run_in_child(child, LIMIT)[1] == "held"
    else:
        with pytest.raises((RuntimeError, EOFError)):
            run_in_child(child, LIMIT)


def test_daemonic_children():
    """A daemonic process has children."""
    method, said = ask(have_children, CONTEXT, daemon=True)
    assert (method, said) == ("forkserver" if threading.active_count() > 1 or not LINUX else method, 0)
    assert run_in_child(lambda: ask(have_children, CONTEXT, daemon=True)[1], LIMIT) == 0


def test_standard_daemonic_children():
    """Control: the standard daemonic processes may have no children."""
    said = ask(have_children, multiprocessing.get_context("spawn"), daemon=True)[1]
    assert said == "daemonic processes are not allowed to have children"


def test_standard_pool_children():
    """The workers of a standard pool have children."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(start_one, [1]) == [0]


def test_from_a_child_and_a_grandchild():
    def grandchild():
        return ask()[0]

    def child():
        with Among():
            first = ask()[0]
        return first, run_in_child(grandchild, LIMIT), in_thread(lambda: ask()[0])

    assert in_thread(lambda: run_in_child(child, LIMIT)) == (
        "forkserver",
        "fork" if LINUX else "forkserver",
        "forkserver",
    )
