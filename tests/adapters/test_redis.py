"""protect() for redis, against a real server; without it (the control) the parent's session is garbled."""

from __future__ import annotations

import gc

import pytest

import forksafe
from forksafe.testing import run_in_child

# redis


def test_redis(redis_server, tls, fork):
    redis = pytest.importorskip("redis")
    client = forksafe.protect(redis.Redis(**redis_server.arguments(tls)))
    session = client.client_id()

    def child():
        forksafe.generation()
        own = client.client_id()
        client.close()
        gc.collect()
        return own

    assert run_in_child(child, fork=fork) != session
    assert client.client_id() == session


def test_control_redis_single_connection(redis_server):
    redis = pytest.importorskip("redis")
    client = redis.Redis(**redis_server.arguments(), single_connection_client=True)
    session = client.client_id()
    assert run_in_child(client.client_id) == session  # the parent's own connection
    client.close()


def test_redis_single_connection(redis_server):
    redis = pytest.importorskip("redis")
    client = forksafe.protect(redis.Redis(**redis_server.arguments(), single_connection_client=True))
    session = client.client_id()

    def child():
        try:
            return client.client_id()
        except redis.ConnectionError:
            return client.client_id()

    assert run_in_child(child) != session
    assert client.client_id() == session
    client.close()
