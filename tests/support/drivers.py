"""Drivers as the matrix of drivers uses them: one way to connect, write, read and look half-used; not a test itself.

Each has a server of the tests behind it. A connection is in a transaction only between begin() and commit().
"""

from __future__ import annotations

from typing import Any

TABLE = "CREATE TABLE IF NOT EXISTS noted (name varchar(150) PRIMARY KEY)"
LONG = 500  # rows of a result that no buffer holds
MANY_ROWS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i, repeat('x', 2000) FROM n"
)


class Sql:
    """What DB-API drivers have in common."""

    which_session = "SELECT pg_backend_pid()"

    def __init__(self, server: Any, tls: bool) -> None:
        self.server, self.tls = server, tls

    def connect(self) -> Any:
        raise NotImplementedError

    def descriptor(self, connection: Any) -> int:
        return int(connection.fileno())

    def execute(self, connection: Any, statement: str) -> list[Any]:
        cursor = connection.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall()) if cursor.description else []

    def commit(self, connection: Any) -> None:
        connection.commit()

    def rollback(self, connection: Any) -> None:
        connection.rollback()

    def close(self, connection: Any) -> None:
        connection.close()

    def prepare(self, connection: Any) -> None:
        """Before all else, once."""
        self.execute(connection, TABLE)
        self.commit(connection)

    def session(self, connection: Any) -> int:
        """The server's own name for this connection."""
        session = self.execute(connection, self.which_session)[0][0]
        self.commit(connection)
        return int(session)

    def begin(self, connection: Any, name: str) -> None:
        """Start a transaction and note the name in it."""
        self.execute(connection, f"INSERT INTO noted VALUES ('{name}')")

    def note(self, connection: Any, name: str) -> None:
        """Note the name, for good."""
        self.begin(connection, name)
        self.commit(connection)

    def noted(self, connection: Any, name: str) -> bool:
        found = self.execute(connection, f"SELECT name FROM noted WHERE name = '{name}'")
        self.commit(connection)
        return [row[0] for row in found] == [name]

    def half_use(self, connection: Any) -> Any:
        """A cursor of which one row is read, and the others wait at the server."""
        cursor = self.cursor_at_server(connection)
        cursor.execute(MANY_ROWS)
        assert cursor.fetchone()[0] == 1
        return cursor

    def cursor_at_server(self, connection: Any) -> Any:
        return connection.cursor("at_server")

    def use_rest(self, connection: Any, cursor: Any) -> bool:
        """Whether the other rows are right."""
        return [row[0] for row in cursor.fetchall()] == list(range(2, LONG + 1))

    def query(self, connection: Any, name: str) -> int:
        """Note the name in whatever transaction there is; returns the session that did."""
        self.begin(connection, name)
        return int(self.execute(connection, self.which_session)[0][0])


class Psycopg2(Sql):
    def connect(self) -> Any:
        import psycopg2

        return psycopg2.connect(self.server.dsn(self.tls))


class Psycopg(Sql):
    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.server.dsn(self.tls))


class SqlAlchemy(Sql):
    """A Connection of an Engine over psycopg2, which holds a connection of the engine's pool."""

    def connect(self) -> Any:
        import sqlalchemy

        connection = sqlalchemy.create_engine(self.server.url(self.tls)).connect()
        self.session(connection)  # what the dialect asks a server at first is done
        return connection

    def descriptor(self, connection: Any) -> int:
        return int(connection.connection.dbapi_connection.fileno())

    def execute(self, connection: Any, statement: str) -> list[Any]:
        result = connection.exec_driver_sql(statement)
        return list(result) if result.returns_rows else []

    def half_use(self, connection: Any) -> Any:
        result = connection.exec_driver_sql(MANY_ROWS, execution_options={"stream_results": True, "max_row_buffer": 1})
        assert result.fetchone()[0] == 1
        return result

    def close(self, connection: Any) -> None:
        connection.close()
        connection.engine.dispose()


class PyMySQL(Sql):
    which_session = "SELECT CONNECTION_ID()"

    def connect(self) -> Any:
        import pymysql

        ssl = {"ssl": {"verify_mode": "none", "check_hostname": False}} if self.tls else {"ssl_disabled": True}
        return pymysql.connect(**self.server.arguments(self.tls), **ssl)

    def descriptor(self, connection: Any) -> int:
        return int(connection._sock.fileno())

    def cursor_at_server(self, connection: Any) -> Any:
        from pymysql.cursors import SSCursor

        return connection.cursor(SSCursor)


class MySQLClient(Sql):
    which_session = "SELECT CONNECTION_ID()"

    def connect(self) -> Any:
        import MySQLdb

        ssl = {"ssl": {"ca": self.server.certificate}} if self.tls else {}
        return MySQLdb.connect(**self.server.arguments(self.tls), **ssl)

    def cursor_at_server(self, connection: Any) -> Any:
        from MySQLdb.cursors import SSCursor

        return connection.cursor(SSCursor)


class Redis:
    """A client with one connection. Its transaction is MULTI … EXEC; half-used is one whose reply is not read yet.

    When its connection is lost the client makes itself another, and tries again.
    """

    def __init__(self, server: Any, tls: bool) -> None:
        self.server, self.tls = server, tls

    def connect(self) -> Any:
        import redis

        return redis.Redis(single_connection_client=True, **self.server.arguments(self.tls))

    def descriptor(self, client: Any) -> int:
        return int(client.connection._sock.fileno())

    def prepare(self, client: Any) -> None:
        client.delete("many")
        client.rpush("many", *["x" * 2000] * LONG)

    def session(self, client: Any) -> int:
        return int(client.client_id())

    def begin(self, client: Any, name: str) -> None:
        client.execute_command("MULTI")
        client.execute_command("SET", name, "noted")

    def commit(self, client: Any) -> None:
        assert client.execute_command("EXEC")

    def rollback(self, client: Any) -> None:
        client.execute_command("DISCARD")

    def note(self, client: Any, name: str) -> None:
        assert client.set(name, "noted")

    def noted(self, client: Any, name: str) -> bool:
        return bool(client.get(name) == b"noted")

    def half_use(self, client: Any) -> Any:
        client.connection.send_command("LRANGE", "many", 0, -1)
        return None

    def use_rest(self, client: Any, nothing: Any) -> bool:
        return bool(client.connection.read_response() == [b"x" * 2000] * LONG)

    def query(self, client: Any, name: str) -> int:
        session = client.client_id()
        client.set(name, "noted")
        return int(session)

    def close(self, client: Any) -> None:
        client.close()


DRIVERS: dict[str, Any] = {
    "psycopg2": Psycopg2, "psycopg": Psycopg, "sqlalchemy": SqlAlchemy, "pymysql": PyMySQL, "MySQLdb": MySQLClient,
    "redis": Redis,
}  # fmt: skip
