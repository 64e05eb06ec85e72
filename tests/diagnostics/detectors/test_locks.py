"""hazards(): locks that are held."""

from __future__ import annotations

import threading

import pytest

import forksafe
from support.hazards import Account, of


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_a_standard_lock_that_is_held(busy, make):
    account = Account(make())
    inside = busy(account.lock.acquire, account.lock.release)
    (hazard,) = of("lock", what="support.hazards.Account.lock")
    assert hazard.severity == "danger"
    assert hazard.thread in ("", inside.thread.name)
    if make is threading.RLock:
        assert hazard.thread == inside.thread.name
    assert "forksafe.protect()" in hazard.cure
    assert "forksafe.RLock" in hazard.cure if make is threading.RLock else "forksafe.Lock" in hazard.cure
    inside.end()
    assert of("lock", what="support.hazards.Account.lock") == []


def test_lock_holder_by_frames():
    """A plain lock does not name its holder: the frames do."""
    account, inside, go = Account(threading.Lock()), threading.Event(), threading.Event()

    def hold(account):
        with account.lock:
            inside.set()
            go.wait(30)

    thread = threading.Thread(target=hold, args=(account,), name="holder")
    thread.start()
    assert inside.wait(10)
    (hazard,) = of("lock", what="support.hazards.Account.lock")
    assert hazard.thread == "holder"
    assert "test_locks.py" in hazard.where
    go.set()
    thread.join(10)


def test_lock_of_this_thread():
    """A lock that the forking thread holds stays held in the child: no hazard."""
    account = Account(threading.RLock())
    with account.lock:
        assert of("lock", what="Account.lock") == []


def test_forksafe_lock_is_note(busy):
    """With track_locks() the report has its place and time, too."""
    forksafe.track_locks()
    try:
        account = Account(forksafe.Lock())
        inside = busy(account.lock.acquire, account.lock.release)
        (hazard,) = of("lock", what="support.hazards.Account.lock")
        assert hazard.severity == "note"
        assert hazard.thread == inside.thread.name
        assert "test_locks.py" in hazard.what, "where it was made"
        assert 0 <= hazard.since < 30
        inside.end()
    finally:
        forksafe.track_locks(False)
    account = Account(forksafe.Lock())
    inside = busy(account.lock.acquire, account.lock.release)
    (hazard,) = of("lock", what="support.hazards.Account.lock")
    assert (hazard.since, "made at" in hazard.what) == (None, False)
    inside.end()
