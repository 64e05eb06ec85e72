"""protect() for logging's QueueListener: it runs in children, too."""

from __future__ import annotations

import logging
import logging.handlers
import multiprocessing
import queue
import threading

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.forks import FREE_THREADED
from support.programs import python, script, succeeds
from support.threads import until

# QueueListener


class Slow(logging.Handler):
    """Keeps what it is given; the parent's thread can be held inside, with more in the queue."""

    def __init__(self):
        super().__init__()
        self.seen, self.inside, self.go = [], threading.Event(), threading.Event()
        self.go.set()

    def emit(self, record):
        self.inside.set()
        self.go.wait(30)
        self.seen.append(record.getMessage())


@pytest.fixture(params=[queue.Queue, queue.SimpleQueue, queue._PySimpleQueue])
def logged(request):
    """A logger over a queue, the listener, and the handler at its end."""
    records, handler = request.param(), Slow()
    logger = logging.Logger("test")  # noqa: LOG001  # shared with no other test
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener = forksafe.protect(logging.handlers.QueueListener(records, handler))
    listener.start()
    yield logger, listener, handler
    handler.go.set()
    listener.stop()


def test_the_child_writes_its_own(logged, fork):
    logger, listener, handler = logged
    logger.warning("the parent's first")
    assert until(lambda: handler.seen == ["the parent's first"])
    handler.go.clear()
    handler.inside.clear()
    logger.warning("busy with this")
    assert handler.inside.wait(10)
    logger.warning("queued in the parent")

    def child():
        forksafe.generation()
        handler.go = threading.Event()
        handler.go.set()
        handler.seen.clear()
        logger.warning("the child's")
        listener.stop()
        return handler.seen

    assert run_in_child(child, fork=fork) == ["the child's"]
    handler.go.set()
    logger.warning("the parent's last")
    listener.stop()
    assert handler.seen == ["the parent's first", "busy with this", "queued in the parent", "the parent's last"]
    listener.start()


def test_listener_unprotected():
    """The control: the child's records are lost."""
    records, handler = queue.Queue(), Slow()
    logger = logging.Logger("test")  # noqa: LOG001  # shared with no other test
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    try:

        def child():
            logger.warning("the child's")
            listener.stop()
            return handler.seen

        assert run_in_child(child) == []
    finally:
        listener.stop()


def test_listener_stopped_before_fork():
    listener = forksafe.protect(logging.handlers.QueueListener(queue.Queue(), Slow()))
    assert run_in_child(lambda: listener._thread) is None
    listener.start()
    listener.stop()
    assert run_in_child(lambda: listener._thread) is None


def test_listener_of_shared_queue():
    """The records are the parent's to write, the child's too."""
    records, handler = multiprocessing.get_context("fork").Queue(), Slow()
    listener = forksafe.protect(logging.handlers.QueueListener(records, handler))
    listener.start()

    def child():
        logger = logging.Logger("test")  # noqa: LOG001  # shared with no other test
        logger.addHandler(logging.handlers.QueueHandler(records))
        logger.warning("the child's")
        records.close()
        records.join_thread()
        listener.stop()  # returns at once: it is not running here
        return handler.seen

    try:
        assert run_in_child(child) == []
        assert until(lambda: handler.seen == ["the child's"])
    finally:
        listener.stop()


UNMODIFIED = """
import atexit, logging, logging.handlers, os, queue, sys
records = queue.Queue(-1)
listener = logging.handlers.QueueListener(records, logging.StreamHandler(sys.stdout))
listener.start()
atexit.register(listener.stop)
logging.getLogger().addHandler(logging.handlers.QueueHandler(records))
pid = os.fork()
if pid == 0:
    logging.warning("the child's")
    sys.exit(7)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 7
logging.warning("the parent's")
"""


def test_unmodified_programs(tmp_path):
    path = script(tmp_path / "program.py", UNMODIFIED)
    assert succeeds(python("-m", "forksafe", "run", path)) == "the child's\nthe parent's\n"
    if not FREE_THREADED:  # there the child may as well hang, in the queue's lock
        assert succeeds(python("-W", "ignore", path)) == "the parent's\n"
