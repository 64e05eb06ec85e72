"""PerProcess: each process makes its own value, and a child neither sees nor finalises its parent's."""

from __future__ import annotations

import copy
import functools
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref

import pytest

import forksafe
from forksafe import PerProcess
from forksafe.testing import run_in_child


class Value:
    """Notes in which process it is finalised, as a client that would talk to its server then."""

    def __init__(self, notes: list[int] | None = None) -> None:
        self.pid, self.notes = os.getpid(), notes
        self.itself = self  # only the garbage collector frees it

    def __del__(self):
        if self.notes is not None:
            self.notes.append(os.getpid())


def connect() -> Value:
    return Value()


shared = PerProcess(connect)


@PerProcess
def decorated() -> Value:
    return Value()


def test_made_once():
    calls: list[int] = []
    value = PerProcess(lambda: calls.append(1) or Value())
    assert not value.made
    assert value.peek() is None
    assert calls == []
    assert value() is value() is value.peek()
    assert value.made
    assert calls == [1]


def test_none_is_a_value():
    calls: list[int] = []
    value = PerProcess(lambda: calls.append(1))
    assert value() is value() is None
    assert value.made
    assert calls == [1]


def test_child_makes_its_own(fork):
    value = PerProcess(connect)
    mine = value()

    def child():
        before = value.made, value.peek()
        return before, value().pid == os.getpid(), value() is mine, value.made

    assert run_in_child(child, fork=fork) == ((False, None), True, False, True)
    assert value() is mine


def test_control_cache_is_shared(fork):
    """The negative control: functools.cache gives the child its parent's object."""
    value = functools.cache(connect)
    value()
    assert run_in_child(lambda: value().pid == os.getpid(), fork=fork) is False


def test_grandchild(fork):
    value = PerProcess(connect)
    value()

    def pids():
        return value().pid == os.getpid(), run_in_child(lambda: value().pid == os.getpid(), fork=fork)

    def skipping():
        """The child itself never asks."""
        return run_in_child(lambda: value().pid == os.getpid(), fork=fork)

    assert run_in_child(pids, fork=fork) == (True, True)
    assert run_in_child(skipping, fork=fork) is True


def test_made_in_child_only(fork):
    value = PerProcess(connect)
    assert run_in_child(lambda: value().pid == os.getpid(), fork=fork)
    assert not value.made


@pytest.mark.parametrize("ask_again", [True, False])
def test_inherited_not_finalised(fork, ask_again):
    notes: list[int] = []
    value = PerProcess(lambda: Value(notes))
    value()

    def child():
        nonlocal value
        if ask_again:
            value().notes = None
        del value
        gc.collect()
        return notes

    assert run_in_child(child, fork=fork) == []


def test_control_global_is_finalised(fork):
    """The negative control: a global that is replaced when the pid differs takes the parent's object down."""
    notes: list[int] = []
    pid, value = os.getpid(), Value(notes)

    def ask() -> Value:
        nonlocal pid, value
        if pid != os.getpid():
            pid, value = os.getpid(), Value()
        return value

    def child():
        ask()
        gc.collect()
        return notes == [os.getpid()]

    assert run_in_child(child, fork=fork)


def test_inherited_in_a_cycle(fork):
    """A PerProcess that is garbage together with its inherited value: the collector must not find the value."""
    notes: list[int] = []
    value = PerProcess(lambda: Value(notes))
    value().owner = value  # type: ignore[attr-defined]
    kept = weakref.ref(value)

    def child():
        nonlocal value
        del value
        gc.collect()
        return kept() is not None, notes

    assert run_in_child(child, fork=fork) == (True, [])
    del value
    gc.collect()
    assert kept() is None
    assert notes == [os.getpid()]


def test_freed_with_its_owner():
    notes: list[int] = []
    value = PerProcess(lambda: Value(notes))
    value()
    del value
    gc.collect()
    assert notes == [os.getpid()]


def test_due_hooks_run_first(fork):
    seen: list[str] = []
    registration = forksafe.register_at_fork(after_in_child=lambda: seen.append("hook"))
    value = PerProcess(lambda: seen.append("maker"))
    try:
        assert run_in_child(lambda: (value(), seen)[1], fork=fork) == ["hook", "maker"]
    finally:
        registration.unregister()


def test_threads_race():
    """All threads ask at once: one makes the value, all get it."""
    calls: list[int] = []

    def make() -> Value:
        calls.append(1)
        time.sleep(0.05)
        return Value()

    value = PerProcess(make)
    barrier = threading.Barrier(16)
    got: list[Value] = []

    def ask() -> None:
        barrier.wait(10)
        got.append(value())

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(got) == 16
    assert set(map(id, got)) == {id(value())}
    assert calls == [1]


def test_maker_vanishes(fork, fork_name):
    """Another thread is inside the maker at the fork: the child is free to make its own."""
    if fork_name != "os.fork" and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("without the GIL another thread may have a lock of the interpreter's own at any moment")
    inside, go = threading.Event(), threading.Event()
    parent = os.getpid()

    def make() -> Value:
        if os.getpid() == parent:
            inside.set()
            go.wait(10)
        return Value()

    value = PerProcess(make)
    thread = threading.Thread(target=value)
    thread.start()
    try:
        assert inside.wait(10)
        assert run_in_child(lambda: value().pid == os.getpid(), fork=fork)
    finally:
        go.set()
        thread.join(10)
    assert value().pid == parent


def test_maker_raises():
    """The caller that ran the maker gets its exception; the next call runs it again."""
    outcomes = iter([ValueError("first"), None])

    def make() -> str:
        if error := next(outcomes):
            raise error
        return "made"

    value = PerProcess(make)
    with pytest.raises(ValueError, match="first"):
        value()
    assert not value.made
    assert value() == "made"


def test_maker_raises_in_child(fork):
    """The inherited value stays out of reach, and alive, also when the child's own cannot be made."""
    notes: list[int] = []
    parent = os.getpid()

    def make() -> Value:
        if os.getpid() != parent:
            raise ConnectionError
        return Value(notes)

    value = PerProcess(make)
    value()

    def child():
        with pytest.raises(ConnectionError):
            value()
        gc.collect()
        return value.made, value.peek(), notes

    assert run_in_child(child, fork=fork) == (False, None, [])


def test_maker_recursion():
    value: PerProcess[object] = PerProcess(lambda: value())
    with pytest.raises(RuntimeError, match=r"<lambda> asks for the value of the PerProcess that is calling it"):
        value()
    assert not value.made


def test_maker_forks(fork):
    """Its child gets an error, and then a value of its own; the parent gets the value."""
    notes: list[int] = []
    pids: list[int] = []
    read_end, write_end = os.pipe()

    def make() -> Value:
        made = Value(notes)
        pids.append(1)
        if len(pids) == 1:
            pids.append(fork())
        return made

    value = PerProcess(make)
    try:
        got: object = value()
    except RuntimeError as error:
        got = str(error)
    if pids[1] == 0:
        try:
            gc.collect()
            fine = "forked while it made a value" in str(got) and value().pid == os.getpid() and notes == []
            os.write(write_end, b"fine" if fine else f"{got} {notes}".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end) as told:
        assert told.read() == "fine"
    os.waitpid(pids[1], 0)
    assert value() is got
    assert value().pid == os.getpid()


def test_asked_in_makers_child(fork):
    """A child that the maker forks may ask, too: the value is its own."""
    parent = os.getpid()

    def make() -> bool:
        return os.getpid() != parent or run_in_child(lambda: value(), fork=fork)

    value = PerProcess(make)
    assert value() is True


def test_what_it_takes():
    with pytest.raises(TypeError, match=r"takes a callable without arguments, not 'int': pass the function"):
        PerProcess(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        PerProcess()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        PerProcess(connect)(1)  # type: ignore[call-arg]


def test_pickling():
    """It pickles as its maker does, by name; another process makes its own value."""
    assert isinstance(shared(), Value)
    copied = pickle.loads(pickle.dumps(shared))
    assert copied is not shared
    assert not copied.made
    assert copied().pid == os.getpid()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(PerProcess(lambda: 1))


def test_pickling_decorated(monkeypatch):
    """Where it has its maker's name, it is found by that name."""
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert copy.copy(decorated) is decorated


def _this_module() -> object:
    module = type(sys)(__name__)
    vars(module).update(globals())
    return module


def test_repr():
    value = PerProcess(connect)
    assert repr(value) == "<forksafe.PerProcess of connect, not made>"
    value()
    assert repr(value) == "<forksafe.PerProcess of connect, made>"
    assert repr(PerProcess(functools.partial(int, 3))).startswith("<forksafe.PerProcess of functools.partial(")


def test_weak_and_generic():
    value = PerProcess(connect)
    reference = weakref.ref(value)
    assert reference() is value
    assert PerProcess[int].__origin__ is PerProcess
    del value
    gc.collect()
    assert reference() is None


def test_exit_after_fork(tmp_path):
    """The interpreter's end in a child does not finalise the inherited value; in the parent it does."""
    program = """
import os, forksafe
class Value:
    def __init__(self): self.pid = os.getpid()
    def __del__(self, getpid=os.getpid, write=os.write): write(1, b"own " if self.pid == getpid() else b"inherited ")
db = forksafe.PerProcess(Value)
db()
if os.fork():
    os.wait()
"""
    result = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, timeout=30, check=True)
    assert result.stdout == b"own "
