"""sys.stdout, sys.stderr and the files of log handlers across a fork: usable in the child, no text lost or doubled.

Guarantees: before a fork these streams are flushed; that takes at most FLUSH_TIMEOUT seconds where another thread may
be blocked in one. In the child each has a new lock and an empty buffer, in place, for others refer to the stream: what
was buffered is the parent's to write.

Why that survives fork: a buffered file has a lock inside, which a thread that is writing to a slow pipe holds when it
vanishes; and the text in a buffer at the fork is in both processes. io.BufferedWriter.__init__() renews both.

Not covered: other files; streams that are not io.TextIOWrapper over io.BufferedWriter (a test runner's, say); a fork
from within a write to the stream itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["FLUSH_TIMEOUT", "cure", "flush", "forked"]

FLUSH_TIMEOUT = 5.0
_ROOM = 1 << 15  # more than both layers of a stream can hold


class _NullDevice(io.RawIOBase):
    """Discards what a text layer has buffered."""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return len(data)  # type: ignore[arg-type]


def _candidates() -> list[Any]:
    streams: list[Any] = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    logging: Any = sys.modules.get("logging")
    handlers = [reference() for reference in list(getattr(logging, "_handlerList", ()))]
    return streams + [getattr(handler, "stream", None) for handler in handlers]


def _streams() -> Iterator[io.TextIOWrapper]:
    seen = set()
    for stream in _candidates():
        if type(stream) is io.TextIOWrapper and id(stream) not in seen:
            seen.add(id(stream))
            # Closed or detached ones raise ValueError.
            with contextlib.suppress(ValueError):
                if type(stream.buffer) is io.BufferedWriter and not stream.closed:
                    yield stream


_flushed = False  # from flush() to the end of the fork
_helper: threading.Thread | None = None


def flush() -> None:
    """Before a fork: write out what is buffered, so that a parent that is about to _exit loses nothing."""
    global _flushed, _helper
    _flushed = True
    streams = list(_streams())
    if threading.active_count() == 1 or all(map(_has_room, streams)):
        _flush(streams)
        return
    # A thread that is blocked in a write holds the inner lock, for which there is no timeout.
    timeout = FLUSH_TIMEOUT
    if _helper is not None and _helper.is_alive():
        timeout = 0.01  # stuck since an earlier fork
    else:
        _helper = threading.Thread(target=_flush, args=(streams,), name="forksafe-flush", daemon=True)
        try:
            _helper.start()
        except RuntimeError:  # no more threads, or the interpreter ends
            _helper = None
            return
    _helper.join(timeout)


def _has_room(stream: io.TextIOWrapper) -> bool:
    """True when what is buffered can be written without waiting, so that no thread is blocked inside either."""
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return True
        if not select.select([], [descriptor], [], 0)[1]:
            return False
        if stat.S_ISFIFO(mode):
            return _room_in_pipe(descriptor) >= _ROOM
        return stat.S_ISCHR(mode)
    except (OSError, ValueError):  # select() takes no descriptor above 1023
        return False


def _room_in_pipe(descriptor: int) -> int:
    if sys.platform != "linux":
        return 0
    import array
    import fcntl
    import termios

    queued = array.array("i", [0])
    fcntl.ioctl(descriptor, termios.FIONREAD, queued)
    return int(fcntl.fcntl(descriptor, getattr(fcntl, "F_GETPIPE_SZ", 1032))) - queued[0]


def forked() -> None:
    """In the parent, after a fork."""
    global _flushed
    _flushed = False


def _flush(streams: list[io.TextIOWrapper]) -> None:
    for stream in streams:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def cure() -> None:
    """In a child: a new lock and an empty buffer in each stream, in place.

    Only right after os.fork(): where the hooks run late, after a fork by C, the text may be the child's own already.
    """
    if not _flushed:
        return
    forked()
    for stream in _streams():
        buffer: Any = stream.buffer
        raw = buffer.raw
        size = getattr(raw, "_blksize", io.DEFAULT_BUFFER_SIZE)
        io.BufferedWriter.__init__(buffer, _NullDevice())
        with contextlib.suppress(OSError, ValueError):
            stream.flush()  # the text layer has a buffer too
        io.BufferedWriter.__init__(buffer, raw, size if size > 1 else io.DEFAULT_BUFFER_SIZE)
