"""install() and uninstall(): what programs that know nothing of forksafe get."""

from __future__ import annotations

import pytest

from support.patching import PRELUDE, run
from support.programs import hangs, script, succeeds


def test_barrier_of_multiprocessing(tmp_path):
    """It derives from threading's, calls no __init__ of it, and keeps its state in shared memory."""
    succeeds(run(tmp_path, """
        import multiprocessing, multiprocessing.synchronize
        fork = multiprocessing.get_context("fork")
        barrier = fork.Barrier(2, timeout=10)
        assert isinstance(barrier, forksafe.Barrier)
        process = fork.Process(target=lambda: [barrier.wait() for _ in range(3)])
        process.start()
        for _ in range(3):
            barrier.wait()
        process.join(10)
        assert process.exitcode == 0 and barrier.n_waiting == 0
        barrier.abort()
        assert barrier.broken
        barrier.reset()
        assert not barrier.broken
    """))  # fmt: skip


def test_names_and_types(tmp_path):
    succeeds(run(tmp_path, """
        import _thread, queue, forksafe
        assert threading.Lock is forksafe.Lock and threading.RLock is forksafe.RLock
        assert _thread.allocate_lock is forksafe.Lock and threading._allocate_lock is forksafe.Lock
        assert _thread.RLock is forksafe.RLock
        for name in "Condition Event Semaphore BoundedSemaphore Barrier".split():
            assert getattr(threading, name) is getattr(forksafe, name), name
            assert isinstance(getattr(threading, name)(*([2] if name == "Barrier" else [])), getattr(threading, name))
        assert isinstance(threading.Lock(), _thread.LockType)
        assert isinstance(_thread.allocate_lock(), type(threading.Lock()))
        assert type(queue.Queue().mutex) is forksafe.Lock
        q = queue.SimpleQueue(); q.put(1); assert q.get(timeout=1) == 1 and q.empty()
        assert type(threading.Thread()._started) is forksafe.Event
    """))  # fmt: skip


def test_names_that_were_bound_before(tmp_path):
    """By modules and classes: `from threading import Lock`, as functools does with _thread.RLock before 3.12."""
    (tmp_path / "early.py").write_text(
        "from threading import Lock, RLock as Reentrant, Condition\nfrom _thread import allocate_lock, LockType\n"
        "class Pool:\n    lock_class = Lock\n    def make(self):\n        return self.lock_class()\n"
        "old = Lock()\n"
    )
    result = run(tmp_path, """
        import early, functools, forksafe
        forksafe.install()
        assert type(early.Lock()) is type(early.allocate_lock()) is type(early.Pool().make()) is forksafe.Lock
        assert type(early.Reentrant()) is forksafe.RLock and type(early.Condition()) is forksafe.Condition
        assert isinstance(early.Lock(), early.LockType) and isinstance(early.old, early.LockType)
        if sys.version_info < (3, 12):
            assert type(functools.cached_property(len).lock) is forksafe.RLock
        forksafe.uninstall()
        assert type(early.Lock()) is not forksafe.Lock and type(early.Pool().make()) is type(early.old)
    """, install="")  # fmt: skip
    succeeds(result)


def test_uninstall_puts_everything_back(tmp_path):
    succeeds(run(tmp_path, """
        import _thread, queue, functools, logging, forksafe
        modules = [threading, _thread, queue, functools, logging]
        before = [dict(vars(module)) for module in modules]
        meta = list(sys.meta_path)
        forksafe.install()
        forksafe.install()
        assert threading.Lock is forksafe.Lock
        forksafe.uninstall()
        forksafe.uninstall()
        for module, old in zip(modules, before):
            changed = {key for key in old if vars(module).get(key) is not old[key]}
            assert not changed, (module, changed)
        assert sys.meta_path == meta
        assert forksafe.patching.install.report() == forksafe.patching.install.Report()
        forksafe.install(connections=True)
        forksafe.uninstall()
        for module, old in zip(modules, before):
            assert not {key for key in old if vars(module).get(key) is not old[key]}, module
        assert sys.meta_path == meta
        lock = threading.Lock()
        assert type(lock) is not forksafe.Lock
    """, install=""))  # fmt: skip


PROGRAMS = {
    "lock": "lock = threading.Lock(); held(lock); in_child(lock.acquire)",
    "rlock": "lock = threading.RLock(); held(lock); in_child(lock.acquire)",
    "allocate_lock": "import _thread; lock = _thread.allocate_lock(); held(lock); in_child(lock.acquire)",
    "queue": "import queue; q = queue.Queue(); held(q.mutex); in_child(lambda: q.put(1))",
    "queue with a waiting thread": """
import queue
q = queue.Queue()
threading.Thread(target=q.get, daemon=True).start()
time.sleep(0.1)
def child():
    got = []
    thread = threading.Thread(target=lambda: got.append(q.get()), daemon=True)
    thread.start()
    time.sleep(0.1)
    q.put(1)
    thread.join(2)
    return got == [1]
in_child(child)
""",
    "logging of a handler with its own lock": """
import logging
class Slow(logging.Handler):
    def __init__(self):
        super().__init__()
        self.mine = threading.Lock()
    def emit(self, record):
        with self.mine:
            time.sleep(0.5 if record.msg == "slow" else 0)
log = logging.getLogger()
log.addHandler(Slow())
threading.Thread(target=log.error, args=("slow",), daemon=True).start()
time.sleep(0.2)
in_child(lambda: log.error("x"))
""",
    "log file on a slow disk": """
import logging
reader, writer = os.pipe()
os.set_blocking(reader, False)
log = logging.getLogger()
log.addHandler(logging.StreamHandler(open(writer, "w")))
threading.Thread(target=log.error, args=("x" * 200_000,), daemon=True).start()
time.sleep(0.2)
if "forksafe" in sys.modules:
    sys.modules["forksafe.patching.streams"].FLUSH_TIMEOUT = 0.3
def child():
    threading.Thread(target=log.error, args=("y",), daemon=True).start()
    got = b""
    while b"y\\n" not in got:  # the parent's thread goes on writing
        try:
            got += os.read(reader, 1 << 20)
        except BlockingIOError:
            time.sleep(0.001)
in_child(child)
os._exit(0)
""",
    "handler that forks": """
import logging
class Forks(logging.Handler):
    def emit(self, record):
        self.pid = os.fork()
        if self.pid == 0:
            logging.getLogger("other").error("x")
handler = Forks()
log = logging.getLogger("forks")
log.propagate = False
log.addHandler(handler)
logging.getLogger("other").addHandler(logging.NullHandler())
logging.getLogger("other").propagate = False
log.error("x")
if handler.pid == 0:
    os._exit(0)
assert os.waitpid(handler.pid, 0)[1] == 0
""",
    "future of concurrent.futures": """
import concurrent.futures
future = concurrent.futures.Future()
held(future._condition)
in_child(lambda: future.set_result(1))
""",
    "cached_property": """
import functools
class Thing:
    @functools.cached_property
    def value(self):
        ready.set()
        time.sleep(0.5)
        return 1
ready = threading.Event()
threading.Thread(target=lambda: Thing().value, daemon=True).start()
assert ready.wait(5)
in_child(lambda: Thing().value == 1, 1)
""",
}
FINE_WITHOUT = {"cached_property"}  # has no lock from 3.12 on; before, the 0.5 s above pass


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_program_is_cured(tmp_path, name):
    succeeds(run(tmp_path, PROGRAMS[name]))


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in FINE_WITHOUT])
def test_control_without_forksafe_it_hangs(tmp_path, name):
    text = PROGRAMS[name].replace("in_child(", "in_child(seconds=1, fn=")
    result = run(tmp_path, text, install="")
    assert result.returncode == 1
    assert "hung" in result.stderr or "status" in result.stderr or "AssertionError" in result.stderr


def test_existing_objects(tmp_path):
    """Those of the standard library are protected."""
    succeeds(run(tmp_path, """
        import logging, queue, functools, tempfile, forksafe
        handler = logging.StreamHandler(); logging.getLogger().addHandler(handler)
        q = queue.Queue()
        event = threading.Event()
        class Thing:
            @functools.cached_property
            def value(self): return 1
        lock = threading.Lock()
        old = queue.SimpleQueue()
        forksafe.install()
        report = forksafe.patching.install.report()
        assert type(tempfile._once_lock) is forksafe.Lock and "tempfile._once_lock" in report.exchanged
        assert type(logging._lock) is forksafe.RLock and "logging._lock" in report.exchanged
        assert "a logging.StreamHandler" in report.protected and "a queue.Queue" in report.protected
        assert "__main__.lock" in report.left_alone, report.left_alone
        assert any("SimpleQueue" in line for line in report.left_alone)
        held(q.mutex); held(event._cond)
        in_child(lambda: (q.put(1), event.set()))
    """, install=""))  # fmt: skip


def test_installed_while_other_threads_run(tmp_path):
    succeeds(run(tmp_path, """
        import forksafe, queue
        q = queue.Queue()
        stop = False
        done = []
        def work():
            while not stop:
                q.put(1); q.get(); done.append(1)
        workers = [threading.Thread(target=work) for _ in range(4)]
        for w in workers: w.start()
        for _ in range(5):
            forksafe.install(); time.sleep(0.02); forksafe.uninstall()
        forksafe.install()
        for _ in range(50):
            in_child(lambda: (q.put(1), q.get()))
        stop = True
        for w in workers: w.join(5); assert not w.is_alive()
    """, install=""))  # fmt: skip


def test_installed_after_asyncio(tmp_path):
    """CPython 3.12's C module passes freed objects to gc.get_referents(): it must not be called for that module."""
    succeeds(run(tmp_path, """
        import asyncio, resource, forksafe
        resource.setrlimit(resource.RLIMIT_AS, (1 << 32, 1 << 32))  # bytes; a list that became a ring has no end
        async def use():
            for _ in range(20):
                await asyncio.get_running_loop().run_in_executor(None, len, "")
        async def main():
            for _ in range(3):
                await asyncio.gather(*(use() for _ in range(5)))
                forksafe.install(connections=True)
                await use()
                forksafe.uninstall()
            await use()
        asyncio.run(main())
    """, install=""))  # fmt: skip


def test_multiprocessing_and_executors(tmp_path):
    """They work when it is installed."""
    succeeds(run(tmp_path, """
        import multiprocessing, concurrent.futures
        def square(x): return x * x
        if __name__ == "__main__":
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(square, range(10)) == [x * x for x in range(10)]
            with concurrent.futures.ThreadPoolExecutor(3) as executor:
                assert list(executor.map(square, range(10))) == [x * x for x in range(10)]
            with concurrent.futures.ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
                assert list(executor.map(square, range(4))) == [0, 1, 4, 9]
    """, timeout=60))  # fmt: skip


def test_a_c_fork_among_logging_threads(tmp_path):
    """As uWSGI does: no Python hook runs, so logging's own locks are not reset; forksafe's are."""
    text = """
import ctypes, logging
class Slow(logging.Handler):
    def emit(self, record):
        time.sleep(60 if record.msg == "slow" else 0)
log = logging.getLogger()
log.addHandler(Slow())
threading.Thread(target=log.error, args=("slow",), daemon=True).start()
time.sleep(0.2)
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    log.error("x")
    os._exit(0)
status = os.waitpid(pid, 0)[1]
os._exit(status != 0)  # logging.shutdown() would wait for the slow handler
"""
    succeeds(run(tmp_path, text))
    path = script(tmp_path / "control.py", PRELUDE + text)
    assert hangs(path)
