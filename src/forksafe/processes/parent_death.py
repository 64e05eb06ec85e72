"""The death of a child with its parent, however the parent ends.

Guarantees: the kernel sends the child SIGKILL (on Linux). The child may be in C, hold the GIL or block signals.

Why that survives fork: parent and child have a pair of sockets. The child's end is set to signal its process when the
other end is closed. It lies in the parent's queue besides, so it lives as long as the parent's end does, whatever the
child closes. It belongs to the process, not to the thread that forked or to a forkserver between the two, as
PR_SET_PDEATHSIG does. The parent's end is flagged, so no other child of the parent keeps it open.

Not covered: a parent that closes all its descriptors, or replaces itself by exec, has ended for its children. A child
of a fork that ran no handler (_Fork(), raw clone) keeps its parent's end open until forksafe is first called in it.
Where the kernel cannot send the signal (not Linux), a thread of the child waits for the end of its parent: it has to
get the GIL, and needs its descriptor.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

from forksafe.locks import Lock
from forksafe_core import atfork

__all__ = ["Lifeline", "kill_after", "kill_with_parent", "signal_on_hangup"]

_flagging = Lock(hold=True)  # no thread forks while another has the parent's end of a pair and has not flagged it


class Lifeline:
    """The two sockets between a parent and its child. With what a child is given, the child's end goes to it."""

    def __init__(self) -> None:
        with _flagging:
            ours, childs = socket.socketpair()
            atfork.flag(ours.fileno())
        with contextlib.suppress(OSError):  # ETOOMANYREFS: then the child must not close its end
            socket.send_fds(childs, [b"\0"], [childs.fileno()])
        self.ours, self.childs = ours.detach(), childs.detach()

    def __reduce__(self) -> Any:
        return _ChildsEnd, (reduction.DupFd(self.childs),)

    def close_childs(self) -> None:
        """The child has it."""
        os.close(self.childs)
        self.childs = -1

    def close(self) -> None:
        """The child has ended, or it is to."""
        atfork.unflag(self.ours)
        os.close(self.ours)
        if self.childs >= 0:
            self.close_childs()


class _ChildsEnd:
    """What a Lifeline is in a child that was not forked."""

    def __init__(self, passed: Any) -> None:
        self.childs: int = passed.detach()


def kill_with_parent(fd: int) -> None:
    """In the child: have it killed when the other end of fd is closed. At once, if it is already."""
    os.set_inheritable(fd, False)
    try:
        signal_on_hangup(fd, os.getpid())
    except (ImportError, AttributeError, OSError):
        kill_after(functools.partial(_wait_for_hangup, fd))
        return
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_hangup(fd: int) -> None:
    with contextlib.suppress(ConnectionError):  # what was sent to the other end was never read
        os.read(fd, 1)


def signal_on_hangup(fd: int, pid: int) -> None:
    """Have the kernel send SIGKILL to that process when the other end of fd is closed."""
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETOWN, pid)
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)  # type: ignore[attr-defined,unused-ignore]  # Linux only
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


def kill_after(wait: Callable[[], object]) -> None:
    """Start a thread that calls wait() and then kills this process."""

    def kill() -> None:
        wait()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=kill, name="forksafe-parent", daemon=True).start()
