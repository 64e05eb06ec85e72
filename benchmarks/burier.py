"""A process with very many descriptors that forks when told to: python -m benchmarks.burier WAY KIND COUNT

Contract: it opens 2 x COUNT descriptors and writes one line of JSON ({"open": number}). Then it answers each line it
reads with {"ns": nanoseconds} that a child spent on every second one of them. It ends when its input does. WAY:

    close        a C loop of close(): the least that a program pays which closes inherited descriptors
    tombstones   forksafe's
    none         nothing is flagged: what every program pays

KIND is sockets or pipes. The work is done where forksafe does it, in pthread_atfork child handlers: one of ours runs
right before forksafe's, and one right after, which has the loop. They are C, compiled here.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from typing import Any

LIMIT = 120
SOURCE = r"""
#include <pthread.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
static int64_t began, ended;
static const int *to_close;
static int how_many;
static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}
static void begin(void) { began = now(); }
static void end(void) {
    for (int i = 0; i < how_many; i++) close(to_close[i]);
    ended = now();
}
int before(void) { return pthread_atfork(0, 0, begin); }
int after(void) { return pthread_atfork(0, 0, end); }
int64_t between(void) { return ended - began; }
void close_in_child(const int *fds, int count) { to_close = fds; how_many = count; }
"""


def compiled() -> Any:
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if not shutil.which(compiler):
        compiler = "cc"
    with tempfile.TemporaryDirectory() as folder:
        source, library = os.path.join(folder, "clock.c"), os.path.join(folder, "clock.so")
        with open(source, "w") as file:
            file.write(SOURCE)
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-pthread"], check=True)
        loaded = ctypes.PyDLL(library)
    loaded.between.restype = ctypes.c_int64
    return loaded


def open_many(kind: str, count: int) -> list[int]:
    needed = 2 * count + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    opened: list[int] = []
    while len(opened) < 2 * count:
        opened += os.pipe() if kind == "pipes" else [each.detach() for each in socket.socketpair()]
    return opened


def in_a_child(measure: Callable[[], int]) -> int:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(measure()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as answers:
        answer = answers.read()
    status = os.waitpid(pid, 0)[1]
    if status or not answer:
        raise RuntimeError(f"the child ended with {os.waitstatus_to_exitcode(status)}")
    return int(answer)


def main(way: str, kind: str, count: str) -> None:
    signal.alarm(LIMIT)
    clock = compiled()
    clock.before()
    import forksafe

    clock.after()
    opened = open_many(kind, int(count))
    chosen = opened[::2]
    if way == "tombstones":
        for descriptor in chosen:
            forksafe.close_on_fork(descriptor)
    numbers = (ctypes.c_int * len(chosen))(*chosen)
    if way == "close":
        clock.close_in_child(numbers, len(chosen))
    print(json.dumps({"open": len(opened)}), flush=True)
    for _ in sys.stdin:
        signal.alarm(LIMIT)
        print(json.dumps({"ns": in_a_child(lambda: int(clock.between()))}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
