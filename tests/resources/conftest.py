"""Fixtures that the tests of @resource share."""

from __future__ import annotations

import pytest

import forksafe
from support.server_sessions import Client


@pytest.fixture
def connect(session_server):
    def connect():
        return Client(session_server.port)

    return connect


@pytest.fixture
def db(connect):
    db = forksafe.resource(connect, close=Client.close)
    yield db
    db.close()
