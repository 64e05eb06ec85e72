"""track_locks(): locks know where they were made and since when they are held; off, they are what they were."""

from __future__ import annotations

import threading
import time

import pytest

import forksafe
from forksafe.diagnostics.lock_tracking import is_tracking, made_at
from forksafe.testing import run_in_child
from forksafe_core import taken_at
from support.programs import python, succeeds


@pytest.fixture
def tracking():
    forksafe.track_locks()
    yield
    forksafe.track_locks(False)


@pytest.fixture(params=["Lock", "RLock", "Lock(hold=True)", "RLock(on_orphan=...)", "a subclass"])
def make(request):
    return {
        "Lock": forksafe.Lock,
        "RLock": forksafe.RLock,
        "Lock(hold=True)": lambda: forksafe.Lock(hold=True),
        "RLock(on_orphan=...)": lambda: forksafe.RLock(on_orphan=lambda info: None),
        "a subclass": type("Mine", (forksafe.Lock,), {}),
    }[request.param]


def test_off_nothing_is_noted(make):
    assert not is_tracking()
    lock = make()
    with lock:
        assert (made_at(lock), taken_at(lock)) == ("", None)


def test_where_a_lock_was_made(tracking, make):
    lock = make()
    if isinstance(make, type) and make.__name__ == "Mine":
        assert made_at(lock) == "", "where an instance of a subclass is made is not recorded"
        return
    assert made_at(lock).startswith(__file__ + ":")
    forksafe.track_locks(False)
    assert made_at(lock).startswith(__file__ + ":"), "what was noted stays"
    assert made_at(make()) == ""


def test_since_when_a_lock_is_held(tracking, make):
    lock = make()
    assert taken_at(lock) is None
    before = time.monotonic()
    lock.acquire()
    taken = taken_at(lock)
    assert before - 0.05 <= taken <= time.monotonic(), "to a few milliseconds"
    time.sleep(0.1)
    assert taken_at(lock) == taken
    lock.release()
    assert taken_at(lock) is None
    with lock:
        assert taken_at(lock) > taken


def test_who_had_to_wait_has_it_since_then(tracking, busy):
    lock = forksafe.Lock()
    lock.acquire()
    first = taken_at(lock)
    got = threading.Event()
    thread = threading.Thread(target=lambda: (lock.acquire(), got.set()))
    thread.start()
    time.sleep(0.1)
    lock.release()
    assert got.wait(10)
    thread.join(10)
    assert taken_at(lock) >= first + 0.05


def test_tracking_begins_anew(tracking):
    """What was recorded before is forgotten."""
    lock = forksafe.Lock()
    with lock:
        assert taken_at(lock) is not None
    forksafe.track_locks(False)
    lock.acquire()
    assert taken_at(lock) is None
    forksafe.track_locks()
    assert taken_at(lock) is None, "it was taken while nothing was noted"
    lock.release()
    with lock:
        assert taken_at(lock) is not None


def test_an_answer_is_never_another_locks(tracking):
    """The table has 4,096 places: of more locks some are forgotten, and none has another's time."""
    locks = [forksafe.Lock() for _ in range(10_000)]
    for lock in locks[:5_000]:
        lock.acquire()
    between = time.monotonic()
    time.sleep(0.05)
    for lock in locks[5_000:]:
        lock.acquire()
    early, late = [taken_at(lock) for lock in locks[:5_000]], [taken_at(lock) for lock in locks[5_000:]]
    assert all(each is None or each <= between for each in early)
    assert all(each is None or each > between for each in late)
    assert sum(each is not None for each in late) > 2_000


def test_a_lock_that_is_gone_is_forgotten(tracking):
    from forksafe.diagnostics import lock_tracking as module

    before = len(module._made)
    made = [forksafe.Lock() for _ in range(100)]
    assert len(module._made) == before + 100
    del made
    assert len(module._made) == before


def test_children_go_on_tracking(tracking, fork):
    lock, mine = forksafe.Lock(), forksafe.Lock()
    mine.acquire()

    def child():
        with lock:
            return is_tracking(), taken_at(lock) is not None, made_at(forksafe.Lock()) != "", taken_at(mine)

    assert run_in_child(child, fork=fork) == (True, True, True, taken_at(mine))


def test_tracking_in_child(tracking, fork, busy, lock):
    """Locks are repaired in children as without tracking."""
    busy(lock.acquire, lock.release)
    assert not lock.acquire(False)
    assert run_in_child(lambda: (lock.acquire(timeout=5), taken_at(lock) is not None), fork=fork) == (True, True)


def test_tracking_switched_under_load():
    """Turned on and off while threads use locks."""
    lock, over, count = forksafe.Lock(), threading.Event(), [0] * 4

    def work(n):
        while not over.is_set():
            with lock:
                count[n] += 1

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(50):
        forksafe.track_locks(turn % 2 == 0)
        time.sleep(0.001)
    over.set()
    for thread in threads:
        thread.join(20)
    forksafe.track_locks(False)
    assert all(count)
    assert not lock.locked()


def test_tracking_internal_error():
    """An error of the recorder does not reach the code that makes a lock."""
    out = succeeds(python("-c", """
import sys
from forksafe_core import set_recorder
import forksafe
def fails(lock):
    raise ValueError("of the recorder")
seen = []
sys.unraisablehook = lambda what: seen.append(type(what.exc_value).__name__)
set_recorder(fails)
lock = forksafe.Lock()
set_recorder(None)
with lock:
    print(seen)
"""))  # fmt: skip
    assert out == "['ValueError']\n"


@pytest.mark.parametrize("wrong", [1, None, "on"])
def test_wrong_arguments(wrong):
    with pytest.raises(TypeError, match="takes True or False, not"):
        forksafe.track_locks(wrong)


def test_a_child_turns_it_off_for_itself(tracking, fork):
    def child():
        forksafe.track_locks(False)
        lock = forksafe.Lock()
        with lock:
            return is_tracking(), taken_at(lock), made_at(lock)

    assert run_in_child(child, fork=fork) == (False, None, "")
    assert is_tracking()


@pytest.mark.parametrize("kind", [forksafe.Lock, forksafe.RLock])
def test_repr_tells_holder(tracking, kind):
    """Which thread holds the lock, and where it was made; in a child of another thread, that it is free."""
    lock = kind()
    assert repr(lock).endswith(" made at " + made_at(lock) + ">")
    holding, go = threading.Event(), threading.Event()

    def hold():
        with lock:
            holding.set()
            go.wait(10)

    thread = threading.Thread(target=hold, name="the holder")
    thread.start()
    try:
        assert holding.wait(10)
        assert repr(lock).endswith(f" held by the holder, made at {made_at(lock)}>")
        text = run_in_child(lambda: repr(lock))
        assert text.startswith("<unlocked")
        assert "held by" not in text
    finally:
        go.set()
        thread.join(10)


def test_repr_untracked():
    lock = forksafe.Lock()
    with lock:
        assert repr(lock) == f"<locked forksafe.Lock object at {id(lock):#x}>"
