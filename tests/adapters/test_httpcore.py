"""protect() for httpx, whose connections are httpcore's, against a real server; each cure with its control."""

from __future__ import annotations

import pytest

import forksafe
from forksafe.testing import run_in_child


@pytest.fixture
def narrow(address):
    """An httpx client with one connection, in the midst of a response."""
    httpx = pytest.importorskip("httpx")
    limits = httpx.Limits(max_connections=1)
    with httpx.Client(trust_env=False, limits=limits, timeout=httpx.Timeout(5, pool=0.3)) as client:
        yield client


def test_httpx_gives_back_what_was_taken(narrow, address, fork):
    forksafe.protect(narrow)
    with narrow.stream("GET", address + "parent") as response:

        def child():
            forksafe.generation()
            own = narrow.get(address + "child").text.split()
            response.close()
            return own, narrow.get(address + "child").text.split()

        first, second = run_in_child(child, fork=fork)
        mine = response.read().decode().split()
    assert first == second != mine  # one connection, its own, kept alive
    assert (first[1], mine[1]) == ("/child", "/parent")
    assert narrow.get(address + "parent").text.split() == mine


def test_httpx_unprotected(narrow, address):
    """The control: it waits for connections that were taken in the parent."""
    httpx = pytest.importorskip("httpx")
    with narrow.stream("GET", address), pytest.raises(httpx.PoolTimeout):
        run_in_child(lambda: narrow.get(address).text)
