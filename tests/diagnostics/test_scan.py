"""hazards(): what a fork would break, as it is at that moment; and nothing that forksafe takes care of."""

from __future__ import annotations

import asyncio
import concurrent.futures
import fcntl
import json
import logging.handlers
import os
import queue
import select
import socket
import subprocess
import sys
import tempfile
import threading

import pytest
from conftest import python, script, succeeds

import forksafe
from forksafe.hazard import KINDS


def of(kind, **wanted):
    """The hazards of one kind that have such values, as substrings."""
    return [
        hazard for hazard in forksafe.hazards([kind])
        if all(text in getattr(hazard, name) for name, text in wanted.items())
    ]  # fmt: skip


class Account:
    def __init__(self, lock):
        self.lock = lock


def test_threads(busy):
    inside = busy(lambda: None)
    inside.thread.name = "a thread of the test"
    (hazard,) = of("thread", thread="a thread of the test")
    assert hazard.severity == "note"
    assert hazard.what == "daemon thread 'a thread of the test'"
    assert "conftest.py" in hazard.where
    assert " in _run" in hazard.where
    inside.end()
    assert of("thread", thread="a thread of the test") == []


def test_a_thread_that_has_been_joined_is_none():
    """Up to CPython 3.12 the system has it for a moment longer."""
    before = of("thread", what="native thread")
    for _ in range(300):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join(10)
        assert of("thread", what="native thread") == before


def test_a_thread_that_is_no_daemon_is_worse():
    go = threading.Event()
    thread = threading.Thread(target=go.wait, args=(30,), name="no daemon")
    thread.start()
    (hazard,) = of("thread", thread="no daemon")
    assert hazard.severity == "warning"
    go.set()
    thread.join(10)


def test_threads_of_forksafe_are_none():
    with forksafe.ThreadPoolExecutor(1, "looked after") as executor:
        executor.submit(pow, 2, 5).result(10)
        background = forksafe.BackgroundThread(print, interval=60, name="looked after")
        background.start()
        assert of("thread", thread="looked after") == []
        background.stop(10)


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_a_standard_lock_that_is_held(busy, make):
    account = Account(make())
    inside = busy(account.lock.acquire, account.lock.release)
    (hazard,) = of("lock", what="test_hazards.Account.lock")
    assert hazard.severity == "danger"
    assert hazard.thread in ("", inside.thread.name)
    if make is threading.RLock:
        assert hazard.thread == inside.thread.name
    assert "forksafe.protect()" in hazard.cure
    assert "forksafe.RLock" in hazard.cure if make is threading.RLock else "forksafe.Lock" in hazard.cure
    inside.end()
    assert of("lock", what="test_hazards.Account.lock") == []


def test_who_has_a_plain_lock_is_told_from_frames():
    account, inside, go = Account(threading.Lock()), threading.Event(), threading.Event()

    def hold(account):
        with account.lock:
            inside.set()
            go.wait(30)

    thread = threading.Thread(target=hold, args=(account,), name="holder")
    thread.start()
    assert inside.wait(10)
    (hazard,) = of("lock", what="test_hazards.Account.lock")
    assert hazard.thread == "holder"
    assert "test_hazards.py" in hazard.where
    go.set()
    thread.join(10)


def test_a_lock_that_this_thread_holds_is_none():
    account = Account(threading.RLock())
    with account.lock:
        assert of("lock", what="Account.lock") == []


@pytest.mark.parametrize("protected", ["the lock", "its owner", "a queue"])
def test_what_is_protected_is_no_hazard(busy, protected):
    account, tasks = Account(threading.Lock()), queue.Queue()
    lock = tasks.mutex if protected == "a queue" else account.lock
    inside = busy(lock.acquire, lock.release)
    what = "queue.Queue" if protected == "a queue" else "test_hazards.Account.lock"
    assert len(of("lock", what=what)) == 1
    obj = {"the lock": account.lock, "its owner": account, "a queue": tasks}[protected]
    forksafe.protect(obj)
    assert of("lock", what=what) == []
    forksafe.unprotect(obj)
    assert len(of("lock", what=what)) == 1
    inside.end()


def test_what_install_cures_is_no_hazard(busy, tmp_path):
    out = succeeds(python("-c", f"""
import sys, threading
sys.path.insert(0, {str(tmp_path)!r})
open({str(tmp_path / "slow_module.py")!r}, "w").write("import __main__; __main__.inside.set(); __main__.go.wait(30)")
inside, go = threading.Event(), threading.Event()
import forksafe
threading.Thread(target=__import__, args=("slow_module",), daemon=True).start()
assert inside.wait(10)
print([hazard.what for hazard in forksafe.hazards(["import"])])
forksafe.install()
print(forksafe.hazards(["import"]))
forksafe.uninstall()
print(len(forksafe.hazards(["import"])))
go.set()
"""))  # fmt: skip
    assert out == "['the import of slow_module, which another thread is in the middle of']\n[]\n1\n"


def test_no_code_of_the_programs_is_run(busy):
    """A lazy proxy that is asked for its class or its attributes makes its object, and may wait for another thread."""
    asked = []

    class Lazy:
        __slots__ = ("__dict__", "lock")

        def __getattribute__(self, name):
            asked.append(name)
            return object.__getattribute__(self, name)

        __class__ = property(lambda self: asked.append("__class__") or int)

    class Table(dict):
        def __getattribute__(self, name):
            asked.append(name)
            return super().__getattribute__(name)

        def __contains__(self, key):
            asked.append(key)
            return super().__contains__(key)

    lazy, table = Lazy(), Table(lock=threading.RLock())
    lazy.lock = lock = threading.RLock()
    object.__getattribute__(lazy, "__dict__")["another"] = another = threading.RLock()
    held = [lock, another, dict.__getitem__(table, "lock")]
    inside = busy(lambda: [each.acquire() for each in held], lambda: [each.release() for each in held])
    asked.clear()
    found = of("lock")
    assert asked == []
    assert len([hazard for hazard in found if "Lazy" in hazard.what or "'lock'" in hazard.what]) == 3, found
    inside.end()


def test_forksafes_locks_are_notes_and_tracking_tells_more(busy):
    forksafe.track_locks()
    try:
        account = Account(forksafe.Lock())
        inside = busy(account.lock.acquire, account.lock.release)
        (hazard,) = of("lock", what="test_hazards.Account.lock")
        assert hazard.severity == "note"
        assert hazard.thread == inside.thread.name
        assert "test_hazards.py" in hazard.what, "where it was made"
        assert 0 <= hazard.since < 30
        inside.end()
    finally:
        forksafe.track_locks(False)
    account = Account(forksafe.Lock())
    inside = busy(account.lock.acquire, account.lock.release)
    (hazard,) = of("lock", what="test_hazards.Account.lock")
    assert (hazard.since, "made at" in hazard.what) == (None, False)
    inside.end()


def test_an_import_under_way(tmp_path):
    (tmp_path / "slow_to_import.py").write_text("import builtins; builtins.inside.set(); builtins.go.wait(30)\n")
    succeeds(python("-c", f"""if True:
        import builtins, sys, threading, forksafe
        sys.path.insert(0, {str(tmp_path)!r})
        builtins.inside, builtins.go = threading.Event(), threading.Event()
        thread = threading.Thread(target=__import__, args=("slow_to_import",), name="importer")
        thread.start()
        assert inside.wait(10)
        (hazard,) = forksafe.hazards(["import"])
        assert hazard.module == "slow_to_import" and hazard.thread == "importer", hazard
        assert hazard.severity == "danger"
        go.set()
        thread.join(10)
        assert forksafe.hazards(["import"]) == []
    """))  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="the system does not tell")
def test_a_file_that_is_being_written():
    reader, writer = os.pipe()
    file = open(writer, "wb")
    thread = threading.Thread(target=lambda: (file.write(b"x" * 1_000_000), file.close()), name="writer", daemon=True)
    thread.start()
    while not select.select([reader], [], [], 10)[0] or not of("write"):
        pass
    (hazard,) = of("write")
    assert hazard.thread == "writer"
    assert f"descriptor {writer}" in hazard.what
    with open(reader, "rb") as rest:
        assert len(rest.read()) == 1_000_000
    thread.join(10)


def test_executors_and_listeners():
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        assert of("executor") == [], "it has no thread yet"
        executor.submit(pow, 2, 5).result(10)
        (hazard,) = of("executor")
        assert (hazard.severity, hazard.module) == ("danger", "concurrent")
        assert "forksafe.ThreadPoolExecutor" in hazard.cure
        forksafe.protect(executor)
        assert of("executor") == []
    listener = logging.handlers.QueueListener(queue.Queue())
    listener.start()
    (hazard,) = of("executor", what="QueueListener")
    listener.stop()
    assert of("executor") == []


def test_connections_and_listening_sockets():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
        server.accept()[0],
    ):
        port = server.getsockname()[1]
        (hazard,) = of("connection", what=f"descriptor {client.fileno()},")
        assert f"127.0.0.1:{port}" in hazard.what
        assert hazard.severity == "danger"
        (hazard,) = of("listener", what=f"127.0.0.1:{port}")
        assert hazard.severity == "note"
        forksafe.close_on_fork(client)
        assert of("connection", what=f"descriptor {client.fileno()},") == []
    assert of("connection", what=f":{port}") == []


def test_event_loops_and_epolls():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    while not loop.is_running():
        pass
    assert of("event loop", what="an event loop that is running")
    forksafe.protect(loop)
    assert of("event loop", what="an event loop that is running") == []
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
    if hasattr(select, "epoll"):
        with select.epoll() as epoll:
            assert of("event loop", what=f"descriptor {epoll.fileno()}, an epoll")


@pytest.mark.skipif(not os.path.exists("/proc/self/fdinfo"), reason="the system does not tell")
def test_locked_files():
    with tempfile.NamedTemporaryFile() as file:
        assert of("file lock", what=file.name) == []
        fcntl.flock(file, fcntl.LOCK_EX)
        (hazard,) = of("file lock", what=file.name)
        assert "FLOCK" in hazard.what


def test_start_method_and_libraries():
    succeeds(python("-c", """if True:
        import multiprocessing, threading, forksafe
        multiprocessing.set_start_method("fork")
        assert forksafe.hazards(["start method"]) == []
        go = threading.Event()
        threading.Thread(target=go.wait).start()
        (hazard,) = forksafe.hazards(["start method"])
        assert "forksafe.get_context()" in hazard.cure
        go.set()
    """))  # fmt: skip


def test_the_worst_come_first_and_all_can_be_written_as_json(busy):
    lock = threading.RLock()
    inside = busy(lock.acquire, lock.release)
    found = forksafe.hazards()
    ranks = ["danger", "warning", "note"]
    assert [ranks.index(each.severity) for each in found] == sorted(ranks.index(each.severity) for each in found)
    assert all(each.kind in KINDS and each.what and each.consequence and each.cure for each in found)
    assert len(json.loads(json.dumps([each.as_dict() for each in found]))) == len(found)
    assert all(str(each).startswith(f"{each.kind}: ") for each in found)
    inside.end()


def test_nothing_secret_is_told(tmp_path):
    """No values of arguments or variables, no environment, no contents."""
    path = script(tmp_path / "program.py", """
        import forksafe, json, os, socket, sys, threading
        secret = "hunter" + "2"
        lock, inside, go = threading.Lock(), threading.Event(), threading.Event()

        def work(password, lock):
            with lock:
                inside.set()
                go.wait(30)

        threading.Thread(target=work, args=(secret, lock)).start()
        assert inside.wait(10)
        print(json.dumps([each.as_dict() for each in forksafe.hazards()]))
        go.set()
    """)  # fmt: skip
    said = succeeds(python(path, secret := "argument-hunter2", env={"PASSWORD": "hunter2"}))
    assert json.loads(said)
    assert "hunter2" not in said
    assert secret not in said


def test_alone_it_is_quiet():
    said = succeeds(python("-c", "import forksafe; print(forksafe.hazards())", close_fds=True))
    assert said == "[]\n"


def test_bad_kinds():
    with pytest.raises(ValueError, match=r"hazards\(kinds=...\) takes some of thread, lock, .* not 'locks'"):
        forksafe.hazards(["locks"])


def test_a_name_in_the_package_is_the_function_whatever_was_imported():
    subprocess.run(
        [sys.executable, "-c", "import forksafe.hazard, forksafe.guarding; forksafe.hazards(); forksafe.guard().off()"],
        check=True,
        timeout=30,
    )  # fmt: skip
