"""The doctor names the true cause: a program for each mechanism that is known to break after a fork, none of them
changed for it. All run at once, for they mostly wait."""

from __future__ import annotations

import concurrent.futures
import json
import sys

import pytest

from support.forks import FORKS, FREE_THREADED, skip_without_the_gil
from support.programs import python, script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system does not tell what threads are in")

PRELUDE = """
import asyncio, concurrent.futures, ctypes, functools, logging, os, queue, select, signal, socket, sys, threading, time
inside, go = threading.Event(), threading.Event()

def holds():
    inside.set()
    go.wait(60)

def in_thread(function, name="the holder"):
    threading.Thread(target=function, name=name, daemon=True).start()
    assert inside.wait(20)

def forks(child, fork=os.fork):
    pid = fork()
    if pid == 0:
        signal.alarm(12)  # longer than the doctor takes to see that it hangs
        child()
        os._exit(0)
    os.waitpid(pid, 0)
    os._exit(0)
"""

# name: the program, what its child is blocked on and which thread held it, hazards by kind with what they say.
CAUSES = {
    "a sink's lock": (
        """
class Handler:
    __slots__ = ("_lock",)
    def __init__(self):
        self._lock = threading.Lock()
    def emit(self):
        with self._lock:
            holds()
handler = Handler()
in_thread(handler.emit)
forks(handler.emit)
""",
        ("a Lock, __main__.Handler._lock, that was held", "the holder"),
        {"lock": "threading.Lock __main__.Handler._lock, held"},
    ),
    "a pool with its only connection checked out": (
        """
server = socket.create_server(("127.0.0.1", 0))
class Pool:
    def __init__(self):
        self.free = queue.LifoQueue()
        self.free.put(socket.create_connection(server.getsockname()))
    def request(self):
        connection = self.free.get()
        inside.set()
        connection.recv(1)
pool = Pool()
in_thread(pool.request, "the requester")
threading.Thread(target=go.wait, name="somebody else", daemon=True).start()
forks(pool.request)
""",
        ("something that another thread was to do", "the requester"),
        {"connection": "TCP 127.0.0.1", "listener": "listens at TCP 127.0.0.1"},
    ),
    "a lock of the whole class": (
        """
class Bar:
    write_lock = threading.RLock()
    def draw(self):
        for lock in [self.write_lock]:
            lock.acquire()
        holds()
in_thread(Bar().draw)
forks(Bar().draw)
""",
        ("an RLock, __main__.Bar.write_lock, that was held", "the holder"),
        {"lock": "threading.RLock __main__.Bar.write_lock"},
    ),
    "a queue's lock": (
        """
class Slow(queue.Queue):
    def _put(self, item):
        holds()
records = Slow()
in_thread(lambda: records.put(1))
forks(lambda: records.put(2))
""",
        ("a Lock, __main__.Slow.", "the holder"),
        {"lock": "threading.Lock __main__.Slow."},
    ),
    "a half-made import": (
        """
sys.path.insert(0, os.path.dirname(__file__))
def imports():
    import slow_module
in_thread(imports)
forks(imports)
""",
        ("the import of slow_module, which was under way", "the holder"),
        {"import": "the import of slow_module"},
    ),
    "a file that is being written to": (
        """
reader, writer = os.pipe()
log = open(writer, "w")
def writes():
    inside.set()
    print("x" * 1_000_000, file=log, flush=True)
in_thread(writes)
while not select.select([reader], [], [], 0.1)[0]: pass
time.sleep(0.3)
forks(lambda: print("y", file=log, flush=True))
""",
        ("the lock inside a file object: descriptor ", "the holder"),
        {"write": "pipe:"},
    ),
    "a cached property's lock": (
        """
class cached:
    def __init__(self, function):
        self.function, self.lock = function, threading.RLock()
    def __get__(self, instance, owner):
        with self.lock:
            return self.function(instance)
class App:
    tasks = cached(lambda self: holds())
app = App()
in_thread(lambda: app.tasks)
forks(lambda: app.tasks)
""",
        ("an RLock, __main__.cached.lock, that was held", "the holder"),
        {"lock": "threading.RLock __main__.cached.lock"},
    ),
    "an executor within a library": (
        """
class Exporter:
    def __init__(self):
        self._executor = concurrent.futures.ThreadPoolExecutor(2, "exporter")
    def export(self):
        return self._executor.submit(pow, 2, 5).result()
exporter = Exporter()
exporter.export()
forks(exporter.export)
""",
        ("something that another thread was to do", "exporter_0"),
        {"executor": "a concurrent.futures.thread.ThreadPoolExecutor, with "},
    ),
    "an event loop in a thread": (
        """
loop = asyncio.new_event_loop()
loop.call_soon(inside.set)
in_thread(loop.run_forever, "the loop's thread")
async def answer():
    return 3
def ask():
    return asyncio.run_coroutine_threadsafe(answer(), loop).result()
ask()
forks(ask)
""",
        ("something that another thread was to do", "the loop's thread"),
        {"event loop": "an event loop that is running"},
    ),
    "a shared connection": (
        """
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
forks(lambda: client.recv(1))
""",
        ("recvfrom() of descriptor", ""),
        {"connection": "TCP 127.0.0.1", "listener": "listens at TCP 127.0.0.1"},
    ),
    "an epoll": (
        """
poll = select.epoll()
forks(lambda: None)
""",
        None,
        {"event loop": "an epoll"},
    ),
    "a fork by C, which runs no hooks": (
        """
class Slow(logging.Handler):
    def emit(self, record):
        holds()
log = logging.getLogger("app")
log.addHandler(Slow())
in_thread(lambda: log.error("x"))
forks(lambda: log.error("y"), ctypes.PyDLL(None).fork)
""",
        ("an RLock, __main__.Slow.lock, that was held", "the holder"),
        {"lock": "threading.RLock __main__.Slow.lock"},
    ),
    "a lock that was given to a thread that has not run on": (
        """
class Registry:
    def __init__(self):
        self._lock = threading.RLock()
    def count(self):
        inside.set()
        with self._lock:
            go.wait(60)
registry = Registry()
registry._lock.acquire()
in_thread(registry.count)
(waiter,) = [thread for thread in threading.enumerate() if thread.name == "the holder"]
for _ in range(3):  # while this one sleeps, no thread waits for the GIL
    call = ""
    while call not in ("202", "98"):  # futex
        time.sleep(0.05)
        call = open(f"/proc/self/task/{waiter.native_id}/syscall").read().split()[0]
sys.setswitchinterval(1000)
registry._lock.release()
end = time.monotonic() + 1
while time.monotonic() < end: pass  # it gets the lock, and waits for the GIL
forks(registry.count, ctypes.PyDLL(None).fork)
""",
        ("an RLock, __main__.Registry._lock, that was held", "the holder"),
        {},
    ),
}
BY_C = {name for name, (program, _, _) in CAUSES.items() if "ctypes." in program.partition("forks(")[2]}


def diagnose(folder, name):
    folder.mkdir()
    script(folder / "slow_module.py", "import __main__\n__main__.holds()\n")
    program = script(folder / "program.py", PRELUDE + CAUSES[name][0])
    report = folder / "report.json"
    result = python(
        "-W", "ignore", "-m", "forksafe", "doctor", "--hang", "1", "--json", str(report), program, timeout=90
    )
    assert result.returncode == 0, result.stderr
    return json.loads(report.read_text()), result.stderr


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory):
    by_c = "C fork" in FORKS and not FREE_THREADED
    names = [name for name in CAUSES if name not in BY_C or by_c]
    with concurrent.futures.ThreadPoolExecutor(len(names)) as executor:
        folder = tmp_path_factory.mktemp("causes")
        yield {name: executor.submit(diagnose, folder / str(n), name) for n, name in enumerate(names)}


@pytest.mark.parametrize("name", CAUSES)
def test_the_cause_is_named(name, diagnoses):
    if name in BY_C:
        skip_without_the_gil("C fork")  # the doctor's thread is one
    if name not in diagnoses:
        pytest.skip("no fork by C here")
    if name == "a lock of the whole class" and FREE_THREADED and sys.version_info < (3, 14):
        pytest.skip("this Python hides classes from gc once there was a thread: the lock is said to be the module's")
    report, said = diagnoses[name].result(timeout=120)
    _, blocked, expected = CAUSES[name]
    (fork,) = report["forks"]
    for kind, what in expected.items():
        found = [hazard["what"] for hazard in fork["hazards"] if hazard["kind"] == kind]
        assert any(what in each for each in found), fork["hazards"]
        assert what in said
    if blocked is None:
        assert report["hangs"] == []
        return
    (hang,) = report["hangs"]
    on, holder = blocked
    assert on in hang["on"], hang
    assert holder in hang["holder"], hang
    assert bool(hang["holder_stack"]) == bool(holder)
    assert on in said
