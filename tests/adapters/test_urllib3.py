"""protect() for HTTP clients, against a real server.

The parent's session survives whatever a child does; without protect() (the controls) it ends or is garbled.
"""

from __future__ import annotations

import pytest

import forksafe
from forksafe.testing import run_in_child


def _requests():
    session = pytest.importorskip("requests").Session()
    return session, lambda url: session.get(url, timeout=5).text


def _urllib3():
    manager = pytest.importorskip("urllib3").PoolManager()
    return manager, lambda url: manager.request("GET", url, timeout=5).data.decode()


def _httpx():
    client = pytest.importorskip("httpx").Client(trust_env=False)
    return client, lambda url: client.get(url, timeout=5).text


@pytest.mark.parametrize("make", [_requests, _urllib3, _httpx])
def test_http_clients(make, address, fork):
    """The connection that the parent keeps alive is not used by the child, whose answers are its own."""
    client, get = make()
    get(address)
    forksafe.protect(client)
    mine = get(address + "parent").split()

    def child():
        forksafe.generation()
        return get(address + "child").split()

    port, path = run_in_child(child, fork=fork)
    assert path == "/child"
    assert port != mine[0]
    assert get(address + "parent").split() == mine


@pytest.mark.parametrize("make", [_requests, _urllib3, _httpx])
def test_control_http_clients(make, address):
    _, get = make()
    mine = get(address).split()
    assert run_in_child(lambda: get(address).split()) == mine  # over the parent's connection
