"""install(connections=True): what the program connects is dead in every child, and nothing else is."""

from __future__ import annotations

import textwrap

import pytest

from support.connections import ONLY_LOCKS, run
from support.programs import succeeds

# The program's own sockets. A client that is collected in a child says goodbye on the connection that it has.

WAYS_TO_CONNECT = {
    "connect": "sock = socket.socket(); sock.connect(address)",
    "connect_ex": "sock = socket.socket(); assert sock.connect_ex(address) == 0",
    "create_connection": "sock = socket.create_connection(address)",
    "without waiting": """
        import select
        sock = socket.socket(); sock.setblocking(False)
        sock.connect_ex(address); assert select.select([], [sock], [], 10)[1]
        sock.setblocking(True)
    """,
    "a subclass": """
        class Mine(socket.socket):
            def connect(self, address):
                return super().connect(address)
        sock = Mine(); sock.connect(address)
    """,
    "the C type": """
        import _socket
        inner = _socket.socket(); inner.connect(address)
        sock = socket.socket(fileno=inner.detach())
    """,
    "after a connect that failed": """
        sock = socket.socket()
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            assert sock.connect_ex(nobody.getsockname())
        sock.connect(address)
    """,
}
SAYS_GOODBYE = """
address = ("127.0.0.1", int(sys.argv[1]))
{connect}
sock.settimeout(10)
client = Client.__new__(Client)
client.sock, client.file = sock, sock.makefile("rb")
session = client.session
def child():
    client.close()
    return Client(address[1]).session
assert in_child(child, FORKS[sys.argv[2]]) != session
assert client.session == session
"""


@pytest.mark.parametrize("way", WAYS_TO_CONNECT)
def test_parents_session_goes_on(tmp_path, session_server, way):
    """A child cannot end it."""
    text = SAYS_GOODBYE.format(connect=textwrap.dedent(WAYS_TO_CONNECT[way]))
    succeeds(run(tmp_path, text, session_server.port, "os.fork"))
    control = run(tmp_path, text, session_server.port, "os.fork", install=ONLY_LOCKS)
    assert control.returncode == 1
    assert "the server has closed this session" in control.stderr


def test_every_way_to_fork(tmp_path, session_server, fork_name):
    text = SAYS_GOODBYE.format(connect=WAYS_TO_CONNECT["create_connection"])
    succeeds(run(tmp_path, text, session_server.port, fork_name))
    assert run(tmp_path, text, session_server.port, fork_name, install=ONLY_LOCKS).returncode == 1


def test_in_children_too(tmp_path, session_server):
    """What a child connects is its own, and dead in its children."""
    text = """
        port = int(sys.argv[1])
        first = Client(port)
        def child():
            second = Client(port)
            mine = second.session
            def grandchild():
                for client in (first, second):
                    try:
                        client.ask()
                    except ConnectionError:
                        continue
                    return client.session
                return Client(port).session
            return mine, in_child(grandchild), second.session
        mine, grandchilds, still_mine = in_child(child)
        assert mine == still_mine
        print(len({first.session, mine, grandchilds}))
    """
    assert succeeds(run(tmp_path, text, session_server.port)) == "3\n"
    assert succeeds(run(tmp_path, text, session_server.port, install=ONLY_LOCKS)) == "2\n"


def test_connections_over_unix_sockets(tmp_path):
    """Streams and packets."""
    text = """
        for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
            listening = socket.socket(socket.AF_UNIX, kind)
            listening.bind(f"socket{kind:d}"); listening.listen()
            client = socket.socket(socket.AF_UNIX, kind); client.connect(f"socket{kind:d}")
            accepted = listening.accept()[0]
            def child():
                try:
                    client.send(b"from the child")
                except BrokenPipeError:
                    pass
            in_child(child)
            client.send(b"from the parent")
            assert accepted.recv(99) == b"from the parent"
            assert [atfork.is_flagged(each.fileno()) for each in (listening, client, accepted)] == [0, 1, 0]
    """
    succeeds(run(tmp_path, text, cwd=tmp_path))
    for name in ("socket1", "socket5"):
        (tmp_path / name).unlink(missing_ok=True)
    assert run(tmp_path, text, cwd=tmp_path, install=ONLY_LOCKS).returncode == 1


# What is never flagged.


def test_unconnected_left_alone(tmp_path):
    """What the program did not connect is left alone."""
    text = """
        import logging.handlers, multiprocessing.connection as connection
        listening = socket.create_server(("127.0.0.1", 0))
        address = listening.getsockname()
        client = socket.create_connection(address)
        accepted = listening.accept()[0]
        datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); datagram.connect(address)
        pipe, file = os.pipe(), open(__file__)
        listener = connection.Listener(("127.0.0.1", 0))
        over_unix = connection.Listener("listener", "AF_UNIX")
        clients = [connection.Client(each.address) for each in (listener, over_unix)]
        logs = [logging.handlers.SocketHandler(*address),
                logging.handlers.SysLogHandler(address, socktype=socket.SOCK_STREAM)]
        logs[0].createSocket()
        both = socket.socketpair()
        alone = [listening, accepted, datagram, file, *both, *clients, logs[0].sock, logs[1].socket]
        numbers = [each.fileno() for each in alone] + [*pipe]
        assert len(numbers) == 12 and atfork.is_flagged(client.fileno())
        flagged = [number for number in numbers if atfork.is_flagged(number)]
        assert not flagged, (flagged, numbers)
    """
    succeeds(run(tmp_path, text, cwd=tmp_path))


def test_datagram_sockets_are_shared_as_ever(tmp_path):
    """statsd's and syslog's clients have one for good."""
    text = """
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sink.bind(("127.0.0.1", 0)); sink.settimeout(10)
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); client.connect(sink.getsockname())
        in_child(lambda: client.send(b"from the child"))
        assert sink.recv(99) == b"from the child"
    """
    succeeds(run(tmp_path, text))


def test_a_log_over_tcp_loses_nothing(tmp_path):
    text = """
        import logging, logging.handlers, pickle
        listening = socket.create_server(("127.0.0.1", 0)); listening.settimeout(10)
        log = logging.getLogger("far away")
        log.addHandler(logging.handlers.SocketHandler(*listening.getsockname()))
        log.warning("one")
        in_child(lambda: log.warning("two"))
        log.warning("three")
        accepted = listening.accept()[0].makefile("rb")
        def message():
            return pickle.loads(accepted.read(int.from_bytes(accepted.read(4), "big")))["msg"]
        assert [message() for _ in range(3)] == ["one", "two", "three"]
    """
    succeeds(run(tmp_path, text))


# keep_on_fork() and subprocess: what a child may have.


def test_daemon_keeps_connection(tmp_path, session_server):
    """It connects, forks twice, and the grandchild goes on."""
    text = """
        client = Client(int(sys.argv[1]))
        session = client.session
        if sys.argv[2] == "keep":
            forksafe.keep_on_fork(client.sock)
        def daemon():
            try:
                return client.session
            except ConnectionError:
                return None
        print(in_child(lambda: in_child(daemon)) == session)
    """
    assert succeeds(run(tmp_path, text, session_server.port, "keep")) == "True\n"
    assert succeeds(run(tmp_path, text, session_server.port, "no")) == "False\n"


def test_subprocess_output_to_connection(tmp_path, session_server):
    """As without forksafe, unless preexec_fn makes a fork of it: then keep_on_fork() is needed."""
    text = """
        import subprocess
        def session(client, **more):
            with open(os.devnull) as nothing:
                subprocess.run(["echo", "who"], stdin=nothing, stdout=client.sock, timeout=10, check=not more, **more)
            client.sock.settimeout(0.5)
            try:
                return client.file.readline() != b""
            except OSError:
                return False
        port = int(sys.argv[1])
        assert session(Client(port))
        assert not session(Client(port), preexec_fn=os.getpid)
        kept = Client(port)
        forksafe.keep_on_fork(kept.sock)
        assert session(kept, preexec_fn=os.getpid)
    """
    succeeds(run(tmp_path, text, session_server.port))


# Turning it on and off.


def test_installed_twice_and_undone(tmp_path, session_server):
    """A second install() adds connections=True; uninstall() undoes both."""
    text = """
        import socket as s
        def is_flagged():
            with s.create_connection(("127.0.0.1", int(sys.argv[1]))) as sock:
                return atfork.is_flagged(sock.fileno())
        meta_path = list(sys.meta_path)
        forksafe.install(); assert not is_flagged()
        forksafe.install(connections=True); assert is_flagged()
        forksafe.install(connections=True); assert is_flagged()
        forksafe.install(); assert is_flagged()
        assert forksafe.patching.install.report().connections
        before = s.create_connection(("127.0.0.1", int(sys.argv[1])))
        forksafe.uninstall(); assert not is_flagged()
        assert atfork.is_flagged(before.fileno()) and sys.meta_path == meta_path
        forksafe.install(); assert not is_flagged()
        assert not forksafe.patching.install.report().connections
        forksafe.install(connections=True); assert is_flagged()
        forksafe.uninstall(); forksafe.uninstall(); assert not is_flagged()
        forksafe.install(connections=False); assert not is_flagged()
    """
    succeeds(run(tmp_path, text, session_server.port, install="import forksafe\n"))


@pytest.mark.parametrize("value", ["'yes'", "1", "None"])
def test_bad_argument(tmp_path, value):
    text = f"""
        import threading
        try:
            forksafe.install(connections={value})
        except TypeError as error:
            assert "takes True or False, not" in str(error)
        else:
            raise AssertionError
        assert threading.Lock is not forksafe.Lock
    """
    succeeds(run(tmp_path, text, install="import forksafe\n"))


def test_an_audit_hook_that_forbids_others(tmp_path):
    text = """
        import threading
        def forbid(event, args):
            if event == "sys.addaudithook":
                raise RuntimeError("no more")
        sys.addaudithook(forbid)
        try:
            forksafe.install(connections=True)
        except RuntimeError as error:
            assert "forbids" in str(error)
        else:
            raise AssertionError
        assert threading.Lock is not forksafe.Lock
        forksafe.install()
        assert threading.Lock is forksafe.Lock
    """
    succeeds(run(tmp_path, text, install="import forksafe\n"))


def test_strange_events_and_sockets(tmp_path):
    """They raise nothing."""
    text = """
        import contextlib
        class Lies:
            __class__ = property(lambda self: 1 / 0)
            def __getattribute__(self, name): raise KeyError(name)
        class Closed(socket.socket):
            fileno = type = property(lambda self: 1 / 0)
        for arguments in ((), (None,), (Lies(), 1), (socket.socket,), (3, "x")):
            sys.audit("socket.connect", *arguments)
        sys.audit("forksafe.patching.connections", 3)
        for sock in (Closed(), socket.socket()):
            sock.close()
            with contextlib.suppress(OSError):
                sock.connect(("127.0.0.1", 9))
        assert atfork.flagged() == []
    """
    succeeds(run(tmp_path, text))


def test_flagged_before_connected(tmp_path, session_server):
    """So that whenever another thread forks, none that is connected is shared. A later audit hook can see it."""
    text = """
        seen = []
        def look(event, args):
            if event == "socket.connect":
                try:
                    args[0].getpeername()
                except OSError:
                    seen.append(atfork.is_flagged(args[0].fileno()))
        sys.addaudithook(look)
        for connect in (lambda sock: sock.connect, lambda sock: sock.connect_ex):
            with socket.socket() as sock:
                connect(sock)(("127.0.0.1", int(sys.argv[1])))
                sock.getpeername()
        assert seen == [True, True]
    """
    succeeds(run(tmp_path, text, session_server.port))


def test_connects_among_forks(tmp_path, session_server):
    """Each process asks over connections of its own, whichever of its parent's it has a copy of."""
    text = """
        import threading
        port, mine, stop = int(sys.argv[1]), [], threading.Event()
        def work():
            while not stop.is_set():
                client = Client(port)
                session = client.session
                assert client.session == session
                mine.append(session)
                client.close()
        def child():
            own = [Client(port) for _ in range(3)]
            return [client.session for client in own]
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads: thread.start()
        children = [session for _ in range(60) for session in in_child(child)]
        stop.set()
        for thread in threads: thread.join(30)
        everyones = [*mine, *children]
        assert len(children) == 180 and len(set(everyones)) == len(everyones)
    """
    result = run(tmp_path, text, session_server.port, timeout=60)
    succeeds(result)
    assert "Exception in thread" not in result.stderr
