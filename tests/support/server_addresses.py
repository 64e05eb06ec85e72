"""Where the servers of servers.py are, as drivers want to be told; also in programs of their own; not a test itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Postgres:
    """Where the PostgreSQL is. Its user is postgres, its database too, without a password."""

    folder: str
    port: int
    tls_port: int

    def dsn(self, tls: bool = False) -> str:
        """For psycopg and psycopg2: over the Unix socket, or with TLS over TCP."""
        host = f"127.0.0.1 port={self.tls_port} sslmode=require" if tls else f"{self.folder} port={self.port}"
        return f"host={host} user=postgres dbname=postgres gssencmode=disable connect_timeout=10"

    def url(self, tls: bool = False, driver: str = "psycopg2") -> str:
        """For SQLAlchemy."""
        host = f"127.0.0.1&port={self.tls_port}&sslmode=require" if tls else f"{self.folder}&port={self.port}"
        return f"postgresql+{driver}://postgres@/postgres?host={host}&gssencmode=disable&connect_timeout=10"


@dataclass(frozen=True)
class Redis:
    """Where the Redis is."""

    folder: str
    port: int
    tls_port: int

    def arguments(self, tls: bool = False) -> dict[str, Any]:
        """For redis.Redis()."""
        if tls:
            return {"host": "127.0.0.1", "port": self.tls_port, "ssl": True, "ssl_cert_reqs": "none"}
        return {"unix_socket_path": f"{self.folder}/socket"}


@dataclass(frozen=True)
class MariaDB:
    """Where the MariaDB is. Its user is root, without a password, its database is test."""

    folder: str
    port: int

    def arguments(self, tls: bool = False) -> dict[str, Any]:
        """For pymysql.connect() and MySQLdb.connect(); each has its own way to ask for TLS, or for none."""
        where = {"host": "127.0.0.1", "port": self.port} if tls else {"unix_socket": f"{self.folder}/socket"}
        return {**where, "user": "root", "database": "test"}

    @property
    def certificate(self) -> str:
        return f"{self.folder}/certificate.pem"
