"""What the tests of protect() with real servers share."""

from __future__ import annotations

PID = "SELECT pg_backend_pid()"


def scalar(engine, text=PID):
    import sqlalchemy

    with engine.connect() as connection:
        return connection.execute(sqlalchemy.text(text)).scalar()
