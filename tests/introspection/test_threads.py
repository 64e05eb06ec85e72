"""Which threads there are, as the system sees it."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from forksafe.introspection.threads import add_helper, exists, is_single_threaded, wait_until_gone
from forksafe.testing import run_in_child

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system tells of threads on Linux alone")


def test_is_single_threaded(busy):
    other = busy(lambda: None)
    assert not is_single_threaded() and not is_single_threaded(0.01)
    assert run_in_child(is_single_threaded) is True
    other.end()


def test_is_single_threaded_helper():
    """A helper is ended before each fork, and does not count."""

    def child():
        end = threading.Event()
        thread = threading.Thread(target=end.wait)
        add_helper(thread)
        thread.start()
        with_helper = is_single_threaded()
        end.set()
        thread.join()
        return with_helper, is_single_threaded(1)

    assert run_in_child(child) == (True, True)


def test_wait_until_gone():
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    assert wait_until_gone([thread.native_id], 10)
    assert not exists(thread.native_id) and not thread.is_alive()


def test_wait_until_gone_time_is_up(busy):
    other = busy(lambda: None)
    assert not wait_until_gone([other.thread.native_id], 0.05)
    other.end()


def test_wait_until_gone_itself():
    start = time.monotonic()
    assert wait_until_gone([threading.get_native_id(), None], 10)
    assert time.monotonic() - start < 5
