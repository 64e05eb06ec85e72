"""The detector of hangs: what hangs is seen at once, and what is only slow, busy or asleep never is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.hangs import abort_tree, assert_child_hangs, wait_until_stuck
from support.programs import hangs, python, script

pytestmark = pytest.mark.skipif(not os.access("/proc/self/syscall", os.R_OK), reason="/proc shows no system calls")
SOON, LONG = 10, 1.2  # seconds: a hang is seen long before SOON, and other programs are watched for LONG

HANGS = {
    "a lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "a join": "threading.Thread(target=threading.Event().wait).start()",
    "a queue": "import queue; queue.Queue().get()",
    "a pipe": "end, keep = os.pipe(); os.read(end, 1)",
    "a select": "import select; end, keep = os.pipe(); select.select([end], [], [])",
    "a poll": "import select; end, keep = os.pipe(); p = select.poll(); p.register(end, 1); p.poll()",
    "a loop": "import asyncio; asyncio.new_event_loop().run_forever()",
    "a child": "lock = threading.Lock(); lock.acquire(); os.fork() and os.wait(); lock.acquire()",
    "a pause": "signal.pause()",
}
GOES_ON = {
    "a sleep": "time.sleep(60)",
    "a lock with a time-out": "lock = threading.Lock(); lock.acquire(); lock.acquire(timeout=60)",
    "an event with a time-out": "threading.Event().wait(60)",
    "a select with a time-out": "import select; end, keep = os.pipe(); select.select([end], [], [], 60)",
    "a poll with a time-out": "import select; p = select.poll(); p.poll(60000)",
    "a loop with a timer": "import asyncio; asyncio.run(asyncio.sleep(60))",
    "busy": "while True: pass",
    "slow": "while True: time.sleep(0.3)",
    "one thread sleeps": "threading.Thread(target=time.sleep, args=(60,)).start(); threading.Event().wait()",
    "a child sleeps": "os.fork() and os.wait(); time.sleep(60)",
    "an alarm": "signal.signal(signal.SIGALRM, print); signal.alarm(60); signal.pause()",
    "a server": "import socket; s = socket.create_connection(('127.0.0.1', PORT)); s.recv(1)",
}


def watched(text: str, seconds: float) -> bool:
    """What wait_until_stuck() says of a program, after its first line of output."""
    text = f"import os, signal, sys, threading, time\nprint(flush=True)\n{text}"
    process = subprocess.Popen([sys.executable, "-c", text], start_new_session=True, stdout=subprocess.PIPE)
    with process:
        process.stdout.readline()
        try:
            return wait_until_stuck(process.pid, seconds, lambda: process.poll() is not None)
        finally:
            abort_tree(process.pid)


@pytest.mark.parametrize("name", HANGS)
def test_hang_is_seen(name):
    assert watched(HANGS[name], SOON)


def test_other_waits_are_none():
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(len(GOES_ON)) as executor:
        port = str(server.getsockname()[1])
        found = executor.map(lambda text: watched(text.replace("PORT", port), LONG), GOES_ON.values())
        assert dict(zip(GOES_ON, found, strict=True)) == dict.fromkeys(GOES_ON, False)


def test_end_is_none():
    assert not watched("", SOON)


def test_hangs_says_where(tmp_path):
    program = script(tmp_path / "program.py", "import threading\nthreading.Event().wait()\n")
    start = time.monotonic()
    assert hangs(program, at="program.py", timeout=SOON)
    assert time.monotonic() - start < SOON
    with pytest.raises(AssertionError, match="hangs elsewhere"):
        hangs(program, at="another.py", timeout=SOON)


def test_hangs_after_its_time():
    assert hangs("-c", "import time; time.sleep(60)", timeout=0.5)


def test_hangs_not():
    assert not hangs("-c", "pass", timeout=30)
    with pytest.raises(AssertionError, match="status 3"):
        hangs("-c", "raise SystemExit(3)", timeout=30)


def test_python_shows_stacks():
    """Of the program and of its child."""
    text = "import os, time\ndef sleeps(): time.sleep(60)\nos.fork()\nsleeps()"
    with pytest.raises(AssertionError) as info:
        python("-c", text, timeout=1)
    assert str(info.value).count("in sleeps") == 2


def test_child_hangs():
    start = time.monotonic()
    assert_child_hangs(threading.Event().wait, "in wait", timeout=SOON)
    assert time.monotonic() - start < SOON - 2


def test_child_ends():
    with pytest.raises(pytest.fail.Exception, match="did not hang: 3"):
        assert_child_hangs(lambda: 3)
    with pytest.raises(ZeroDivisionError):
        assert_child_hangs(lambda: 1 / 0)
