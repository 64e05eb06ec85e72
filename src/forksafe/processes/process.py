"""get_context(), get_start_method(): multiprocessing that forks only while that is safe, and leaves no orphans.

Guarantees
  - Each process is started by fork if this one has a single thread of the operating system just then, native threads
    included; else by forkserver; where that does not exist, by spawn. Where threads cannot be counted (anywhere but
    on Linux) it never forks.
  - A daemonic process may start processes. Each process that is daemonic, or that was started by a process of
    multiprocessing, dies with its parent, however that ends: the kernel sends SIGKILL. So do its own, and theirs.
    A process that is neither, one that the main program starts with daemon=False, outlives it if that is killed, as
    ever.
  - A forked child leaves the processes of its parent alone: at its exit it neither signals nor joins them, and it
    never reads an exit status that its parent is to read. It starts a forkserver of its own, where the standard one
    fails.

Why that survives fork: parent and child have a pair of sockets. The child's end is set to send its process a signal
when the other is closed, and it lies in the parent's queue besides: it lives as long as the parent's does, whatever the
child closes. It needs nothing of the child, which may be in C, hold the GIL or block signals; and it hangs on the
process, not on the thread that forked, or on a forkserver between the two, as PR_SET_PDEATHSIG does. The parent's end
is flagged, so no other child of the parent keeps it open.

Not covered: a parent that closes all its descriptors, or replaces itself by exec, has ended for its children. Children
made by os.fork() or subprocess are nobody's processes here. A child of a fork that ran no handler (_Fork(), raw clone)
keeps its parent's end open until forksafe is first called in it. Where the kernel cannot send the signal (not Linux), a
thread of the child waits for the end of its parent: it has to get the GIL, and needs its descriptor.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
from multiprocessing import process as _standard
from multiprocessing import reduction, util
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from forksafe.atfork.disowning import disown_processes, disown_threads
from forksafe.atfork.hooks import register_at_fork
from forksafe.introspection.threads import is_single_threaded
from forksafe.locks import Lock
from forksafe_core import atfork

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Context", "Process", "get_context", "get_start_method"]

SETTLE_TIMEOUT = 0.005  # seconds for a thread that has been joined to be gone from the system, too

_POPEN_MODULES = {
    "fork": "multiprocessing.popen_fork",
    "forkserver": "multiprocessing.popen_forkserver",
    "spawn": f"multiprocessing.popen_spawn_{'win32' if sys.platform == 'win32' else 'posix'}",
}
_flagging = Lock(hold=True)  # no thread forks while another has the parent's end of a pair and has not flagged it
_std: Any = _standard  # what typeshed does not know of: _children, _cleanup


def get_start_method() -> str:
    """How a process can be started safely now: "fork" while this one has a single thread, else "forkserver" or "spawn".

    Threads that are not Python's count as well. "spawn" is for platforms without forkserver. In a forked child, which
    has one thread to begin with, it is "fork" again.
    """
    if "fork" in _start_methods() and _can_count_threads() and is_single_threaded(SETTLE_TIMEOUT):
        return "fork"
    return method_without_fork()


def method_without_fork() -> str:
    """ "forkserver", or "spawn" where there is none."""
    return "forkserver" if "forkserver" in _start_methods() else "spawn"


def _start_methods() -> list[str]:
    return multiprocessing.get_all_start_methods() if hasattr(os, "fork") else ["spawn"]


def get_context() -> Context:
    """The context of multiprocessing whose processes are started in the way that is safe at that moment.

    It is used as those of multiprocessing.get_context(): Process, Pool, Queue, Manager, Lock and so on, and as the
    mp_context of concurrent.futures.ProcessPoolExecutor. Since any start may turn out to be no fork, a program needs
    `if __name__ == "__main__":`, and what processes are given should be picklable.

    Its processes may start others, also when they are daemonic, and these are killed (SIGKILL: no clean-up of theirs
    runs) when their parent ends without having waited for them. It is the same object in each process; a forked child
    uses it as its parent did.
    """
    return _context


def _can_count_threads() -> bool:
    return os.path.exists("/proc/self/task")  # elsewhere threads that are not Python's cannot be seen


class _Lifeline:
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
    """What a _Lifeline is in a child that was not forked."""

    def __init__(self, passed: Any) -> None:
        self.childs: int = passed.detach()


def _kill_with_parent(fd: int) -> None:
    """In the child: have it killed when the other end of fd is closed. At once, if it is already."""
    os.set_inheritable(fd, False)
    try:
        _signal_on_hangup(fd, os.getpid())
    except (ImportError, AttributeError, OSError):
        _watch(functools.partial(_wait_for_hangup, fd))
        return
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):
        os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_hangup(fd: int) -> None:
    with contextlib.suppress(ConnectionError):  # what was sent to the other end was never read
        os.read(fd, 1)


def _signal_on_hangup(fd: int, pid: int) -> None:
    import fcntl

    fcntl.fcntl(fd, fcntl.F_SETOWN, pid)
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)  # type: ignore[attr-defined,unused-ignore]  # Linux only
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)


def _watch(wait: Callable[[], object]) -> None:
    def kill() -> None:
        wait()
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))

    threading.Thread(target=kill, name="forksafe-parent", daemon=True).start()


class Process(BaseProcess):
    """A process of get_context(); see multiprocessing.Process, whose methods it has."""

    _start_method = None  # what multiprocessing itself uses in the child is left as it is
    _may_fork = True
    _tied = False  # to its parent: it ends with it
    _lifeline: Any = None
    _popen: Any

    def start(self) -> None:
        """Start it, as is safe now. Also a daemonic process may do so.

        AssertionError, as the standard's: if it was started already, or made by another process. What pickling raises,
        if it cannot be forked and was given something that cannot be pickled.
        """
        self._check_closed()  # type: ignore[attr-defined]
        if self._popen is not None:
            raise AssertionError("cannot start a process twice")
        if self._parent_pid != os.getpid():  # type: ignore[attr-defined]
            raise AssertionError("can only start a process object created by current process")
        _std._cleanup()
        starter = multiprocessing.current_process()
        self._tied = self._tied or bool(self.daemon or starter.daemon or multiprocessing.parent_process())
        if self._tied and sys.platform != "win32":
            self._lifeline = _Lifeline()
        try:
            self._popen = self._Popen(self)
        except BaseException:
            if self._lifeline is not None:
                self._lifeline.close()
                self._lifeline = None
            raise
        self._sentinel = self._popen.sentinel
        self._hand_over()
        _flag_alive_fd()
        del self._target, self._args, self._kwargs  # type: ignore[attr-defined]  # may refer to the process
        _std._children.add(self)

    def close(self) -> None:
        """Let go of what is kept for it. ValueError while it runs."""
        super().close()
        if self._lifeline is not None:
            self._untie()

    def _hand_over(self) -> None:
        lifeline = self._lifeline
        if lifeline is None:
            return
        if self._popen.method == "spawn":  # while it imports __main__; it is our own child, so the number is its
            with contextlib.suppress(ImportError, AttributeError, OSError):
                _signal_on_hangup(lifeline.childs, self._popen.pid)
        lifeline.close_childs()
        self._untie = util.Finalize(self, lifeline.close)

    def _bootstrap(self, parent_sentinel: Any = None) -> Any:
        # Forked by a worker of an executor, it would join itself at its exit, and end with status 1.
        disown_threads([threading.current_thread()])
        if self._lifeline is not None:
            _kill_with_parent(self._lifeline.childs)
        elif self._tied:
            from multiprocessing.connection import wait

            _watch(functools.partial(wait, [parent_sentinel]))
        return super()._bootstrap(parent_sentinel)  # type: ignore[misc]

    @staticmethod
    def _Popen(process: Process) -> Any:
        method = get_start_method() if process._may_fork else method_without_fork()
        try:
            return _popen_type(method)(process)
        except (AttributeError, TypeError, reduction.pickle.PicklingError) as error:  # type: ignore[attr-defined]
            if hasattr(error, "add_note"):
                error.add_note(
                    f"This process was to be started by {method}, since its parent has more than one thread and must "
                    "not fork. What it is given must be picklable then: functions and classes that can be imported, "
                    "no open files, locks or lambdas"
                )
            raise


class _Owned:
    """For a Popen: only the process that made it asks how the child fares."""

    def __init__(self, process: Process) -> None:
        self.generation = atfork.generation()
        super().__init__(process)  # type: ignore[call-arg]

    def poll(self, *arguments: Any, **more: Any) -> Any:
        if self.generation != atfork.generation():  # which has the hooks run that may be due
            return None
        return super().poll(*arguments, **more)  # type: ignore[misc]


_popen_types: dict[str, Any] = {}


def _popen_type(method: str) -> Any:
    if method not in _popen_types:
        standard = importlib.import_module(_POPEN_MODULES[method]).Popen
        _popen_types[method] = type("Popen", (_Owned, standard), {"__module__": __name__})
    return _popen_types[method]


class Context(BaseContext):
    """The type of get_context(). get_start_method() says how a process would be started now.

    Locks and what is made of them can be given to processes however these are started, so that the first of them
    starts multiprocessing's resource tracker.
    """

    Process = Process

    def get_start_method(self, allow_none: bool = False) -> str:
        return get_start_method()

    # A lock made for fork alone has no name by which another process could find it.

    def Lock(self) -> Any:
        return multiprocessing.get_context("spawn").Lock()

    def RLock(self) -> Any:
        return multiprocessing.get_context("spawn").RLock()

    def Semaphore(self, value: int = 1) -> Any:
        return multiprocessing.get_context("spawn").Semaphore(value)

    def BoundedSemaphore(self, value: int = 1) -> Any:
        return multiprocessing.get_context("spawn").BoundedSemaphore(value)

    def __reduce__(self) -> Any:
        return get_context, ()


def _after_in_child() -> None:
    generation = atfork.generation()
    ours = [each for each in list(_std._children) if isinstance(each, Process)]
    disown_processes([each for each in ours if each._popen.generation != generation])
    _renew_servers()


def _renew_servers() -> None:
    """A thread that vanished may have held their locks; and for a forkserver that is no child of this process,
    multiprocessing asks waitpid(), which fails. The resource tracker is meant to be shared."""
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None:
        tracker._resource_tracker._lock = threading.RLock()
    module: Any = sys.modules.get("multiprocessing.forkserver")
    if module is None:
        return
    server = module._forkserver
    server._lock = threading.Lock()
    server._forkserver_pid = server._forkserver_alive_fd = server._forkserver_address = None


def _flag_alive_fd() -> None:
    """Of a forkserver: it lives as long as somebody has that open, and a child must not be one of them.

    The child does not close it: it may share its table of descriptors with the parent.
    """
    server: Any = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    if server is not None and server._forkserver_alive_fd is not None:
        with contextlib.suppress(OSError):
            atfork.flag(server._forkserver_alive_fd)


_context = Context()
register_at_fork(before=_flag_alive_fd, after_in_child=_after_in_child)
