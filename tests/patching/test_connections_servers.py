"""install(connections=True) with what forks on purpose: prefork servers, socketserver and multiprocessing go on."""

from __future__ import annotations

import textwrap
from itertools import cycle

import pytest

from support.connections import ONLY_LOCKS, run
from support.programs import succeeds

# A prefork server as gunicorn is one: the master has the listening socket, a pipe to each worker and, made before the
# fork, a connection to a server behind it, as an application that is loaded first has.

PREFORK = """
import select, signal
behind = Client(int(sys.argv[1]))
masters = behind.session
fork = FORKS[sys.argv[2]]
listening = socket.create_server(("127.0.0.1", 0))
WORKERS, REQUESTS = 3, 30

def work(life):
    global behind
    while True:
        ready = select.select([listening, life], [], [], 30)[0]
        if life in ready or not ready:
            return
        listening.setblocking(False)
        try:
            accepted = listening.accept()[0]
        except BlockingIOError:  # another worker was faster
            continue
        accepted.setblocking(True)
        with accepted, accepted.makefile("rb") as lines:
            request = lines.readline()
            try:
                session = behind.session
            except ConnectionError:
                behind = Client(int(sys.argv[1]))
                session = behind.session
            accepted.sendall(b"%d %d %s" % (os.getpid(), session, request))

reader, writer = os.pipe()
workers = []
for _ in range(WORKERS):
    pid = fork()
    if pid == 0:
        status = 1
        try:
            forksafe.generation()  # a fork without handlers is noticed here
            os.close(writer)
            work(reader)
            status = 0
        finally:
            os._exit(status)
    workers.append(pid)

served = {}
for number in range(REQUESTS):
    with socket.create_connection(listening.getsockname(), timeout=20) as client, client.makefile("rb") as lines:
        client.sendall(b"request %d\\n" % number)
        pid, session, *request = lines.readline().split()
        assert request == [b"request", b"%d" % number], request
        served.setdefault(int(pid), set()).add(int(session))
os.close(writer)
for pid in workers:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert set(served) <= set(workers)
assert behind.session == masters
sessions = [session for each in served.values() for session in each]
assert masters not in sessions, "a worker used its master's connection"
assert len(sessions) == len(served)
"""


def test_prefork_server(tmp_path, session_server, fork_name):
    succeeds(run(tmp_path, PREFORK, session_server.port, fork_name))


def test_prefork_server_unprotected(tmp_path, session_server):
    """The control: its workers share the master's connection."""
    result = run(tmp_path, PREFORK, session_server.port, "os.fork", install=ONLY_LOCKS)
    assert result.returncode == 1
    assert "a worker used its master's connection" in result.stderr or "has closed this session" in result.stderr


def test_forking_socketserver(tmp_path):
    """The child answers on what its parent accepted."""
    succeeds(run(tmp_path, """
        import socketserver, threading
        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"%d %s" % (os.getpid(), self.rfile.readline()))
        class Server(socketserver.ForkingMixIn, socketserver.TCPServer):
            pass
        with Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,)); thread.start()
            pids = set()
            for number in range(5):
                with socket.create_connection(server.server_address, timeout=20) as client:
                    client.sendall(b"%d\\n" % number)
                    pid, answer = client.makefile("rb").readline().split()
                    assert int(answer) == number
                    pids.add(int(pid))
            server.shutdown(); thread.join(20)
        assert len(pids) == 5 and os.getpid() not in pids
    """, timeout=60))  # fmt: skip


# multiprocessing, each part with each start method, in a program that has connected before.

PARTS = {
    "Pool": """
        with context.Pool(2) as pool:
            assert pool.map(square, range(20)) == [x * x for x in range(20)]
    """,
    "ProcessPoolExecutor": """
        import concurrent.futures
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            assert list(executor.map(square, range(20))) == [x * x for x in range(20)]
    """,
    "Manager": """
        with context.Manager() as manager:
            values, queue, lock = manager.dict(), manager.Queue(), manager.Lock()
            values["parent"] = 1  # over this thread's connection to the manager, which a forked child inherits
            in_process(fill, values, queue, lock)
            assert dict(values) == {"parent": 2, "child": 1} and queue.get(timeout=20) == "from the child"
    """,
    "Queue": """
        queue = context.Queue()
        in_process(put, queue)
        assert queue.get(timeout=20) == "from the child"
    """,
    "SimpleQueue": """
        queue = context.SimpleQueue()
        in_process(put, queue)
        assert queue.get() == "from the child"
    """,
    "Pipe": """
        for duplex in (True, False):
            ours, theirs = context.Pipe(duplex)
            in_process(send, theirs)
            assert ours.poll(20) and ours.recv() == "from the child"
    """,
    "Client handed to a child": """
        from multiprocessing.connection import Client, Listener
        for family in ("AF_INET", "AF_UNIX"):
            with Listener(family=family) as listener:
                client = Client(listener.address)
                accepted = listener.accept()
                in_process(send, client)
                assert accepted.poll(20) and accepted.recv() == "from the child"
                client.send("from the parent")
                assert accepted.poll(20) and accepted.recv() == "from the parent"
    """,
    "Listener in a child": """
        from multiprocessing.connection import Client, Listener
        address = os.path.join(sys.argv[3], "listener")
        with Listener(address) as listener:
            process = context.Process(target=answer, args=(listener,)) if method == "fork" else None
            if process:
                process.start()
                with Client(address) as client:
                    assert client.poll(20) and client.recv() == "from the child"
                process.join(20)
                assert process.exitcode == 0
    """,
    "a connection sent through a queue": """
        ours, theirs = context.Pipe()
        queue = context.Queue()
        process = context.Process(target=send_through, args=(queue,))
        process.start()
        queue.put(theirs)  # multiprocessing's resource sharer connects for this
        assert ours.poll(20) and ours.recv() == "from the child"
        process.join(20)
        assert process.exitcode == 0
    """,
    "Event and Value": """
        event, value = context.Event(), context.Value("i", 1)
        process = context.Process(target=meet, args=(event, value))
        process.start()
        assert event.wait(20)
        process.join(20)
        assert process.exitcode == 0 and value.value == 2
    """,
}
PROGRAM = """
import multiprocessing

def square(x): return x * x
def put(queue): queue.put("from the child")
def send(connection): connection.send("from the child")
def send_through(queue): queue.get(timeout=20).send("from the child")
def answer(listener): listener.accept().send("from the child")
def fill(values, queue, lock):
    with lock:
        values["parent"] += 1
        values["child"] = 1
    queue.put("from the child")
def meet(event, value):
    value.value += 1
    event.set()

def in_process(target, *arguments):
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(20)
    assert process.exitcode == 0, process.exitcode

if __name__ == "__main__":
    method = sys.argv[2]
    context = multiprocessing.get_context(method)
    mine = Client(int(sys.argv[1]))
    session = mine.session
PART
    assert mine.session == session
    assert atfork.flagged() == [mine.sock.fileno()]
"""


# By default each part under fork, and under one of the methods that start a fresh interpreter.
CELLS = [
    pytest.param(part, method, marks=pytest.mark.slow if method == other else (), id=f"{part}-{method}")
    for part, other in zip(PARTS, cycle(["spawn", "forkserver"]))
    for method in ("fork", "forkserver", "spawn")
]


@pytest.mark.parametrize(("part", "method"), CELLS)
def test_multiprocessing(tmp_path, session_server, method, part):
    text = PROGRAM.replace("PART", textwrap.indent(textwrap.dedent(PARTS[part]), " " * 4))
    succeeds(run(tmp_path, text, session_server.port, method, tmp_path, timeout=60))
