"""hazards(): threads."""

from __future__ import annotations

import threading

import forksafe
from support.hazards import of


def test_threads(busy):
    inside = busy(lambda: None)
    inside.thread.name = "a thread of the test"
    (hazard,) = of("thread", thread="a thread of the test")
    assert hazard.severity == "note"
    assert hazard.what == "daemon thread 'a thread of the test'"
    assert "threads.py" in hazard.where
    assert " in _run" in hazard.where
    inside.end()
    assert of("thread", thread="a thread of the test") == []


def test_thread_joined():
    """Up to CPython 3.12 the system has it for a moment longer."""
    before = of("thread", what="native thread")
    for _ in range(300):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join(10)
        assert of("thread", what="native thread") == before


def test_thread_daemon():
    """A thread that is no daemon is worse than one that is."""
    go = threading.Event()
    thread = threading.Thread(target=go.wait, args=(30,), name="no daemon")
    thread.start()
    (hazard,) = of("thread", thread="no daemon")
    assert hazard.severity == "warning"
    go.set()
    thread.join(10)


def test_threads_of_forksafe_are_none():
    with forksafe.ThreadPoolExecutor(1, "looked after") as executor:
        executor.submit(pow, 2, 5).result(10)
        background = forksafe.BackgroundThread(print, interval=60, name="looked after")
        background.start()
        assert of("thread", thread="looked after") == []
        background.stop(10)
