"""gunicorn with --preload and workers of several threads, which need what was made before the fork."""

from __future__ import annotations

import pytest

from support.prefork_servers import (
    ALL,
    CLIENTS,
    RECYCLE,
    THREADS,
    TIMEOUT,
    WORKERS,
    ask_all,
    running,
    serves,
    shows_harm,
)

pytest.importorskip("gunicorn")
pytest.importorskip("psycopg")

COMMAND = [
    "-m", "gunicorn", "app:application", "--preload", "--worker-class", "gthread", "--bind", "unix:{socket}",
    "--workers", str(WORKERS), "--threads", str(THREADS), "--max-requests", str(RECYCLE), "--timeout", "60",
]  # fmt: skip


@pytest.mark.timeout(TIMEOUT)
def test_gunicorn(postgres):
    with running(COMMAND, postgres) as server:
        server.wait_listening()
        serves(server, postgres, lambda: ask_all(lambda number: server.get(ALL, number)), CLIENTS + THREADS)


def test_control(postgres):
    with running(COMMAND, postgres, PRIMITIVES="standard") as server:
        server.wait_listening()
        shows_harm(server, server.get)
