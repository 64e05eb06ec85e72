"""Process: the processes of get_context().

Guarantees: a forked child leaves the processes of its parent alone: at its exit it neither signals nor joins them, and
it never reads an exit status that its parent is to read. It starts a forkserver of its own, where the standard one
fails.

Why that survives fork: each Popen carries the generation of the process that made it. In a child a hook takes the
parent's processes off multiprocessing's list, and gives its servers new locks.

Not covered: multiprocessing's own processes, of its other contexts.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import os
import sys
import threading
from multiprocessing import process as _standard
from multiprocessing import reduction, util
from multiprocessing.process import BaseProcess
from typing import Any

from forksafe.atfork.child_exit import disown_processes, disown_threads
from forksafe.atfork.hooks import register_at_fork
from forksafe.processes.parent_death import Lifeline, kill_after, kill_with_parent, signal_on_hangup
from forksafe.processes.start_method import get_start_method, method_without_fork
from forksafe_core import atfork

__all__ = ["Process"]

_POPEN_MODULES = {
    "fork": "multiprocessing.popen_fork",
    "forkserver": "multiprocessing.popen_forkserver",
    "spawn": f"multiprocessing.popen_spawn_{'win32' if sys.platform == 'win32' else 'posix'}",
}
_std: Any = _standard  # what typeshed does not know of: _children, _cleanup


class Process(BaseProcess):
    """A process of get_context(); it has the methods of multiprocessing.Process."""

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
            self._lifeline = Lifeline()
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
                signal_on_hangup(lifeline.childs, self._popen.pid)
        lifeline.close_childs()
        self._untie = util.Finalize(self, lifeline.close)

    def _bootstrap(self, parent_sentinel: Any = None) -> Any:
        # Forked by a worker of an executor, it would join itself at its exit, and end with status 1.
        disown_threads([threading.current_thread()])
        if self._lifeline is not None:
            kill_with_parent(self._lifeline.childs)
        elif self._tied:
            from multiprocessing.connection import wait

            kill_after(functools.partial(wait, [parent_sentinel]))
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


register_at_fork(before=_flag_alive_fd, after_in_child=_after_in_child)
