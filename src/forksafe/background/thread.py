"""BackgroundThread: a thread that forks find at a checkpoint, and that goes on in parent and child.

Guarantees: a fork made by Python happens while the thread is at a checkpoint (in wait(), between two runs of an
interval target, not started, or ended), and so do the blocks of quiesce(). It leaves the checkpoint afterwards. A fork
waits at most park_timeout seconds; then it goes ahead, with a ForkHazardWarning that says where the thread was. In the
child the target is run from its start by a thread of the child's own if it was running at the fork and had not been
told to stop (at_fork="restart"), or it can be started again (at_fork="stop"). A thread that is started while a fork is
under way, or within a block of quiesce(), begins when that is over.

If the target itself forks, the child is in the middle of it, and goes on there: the thread is running, as the child's
only one, and is not started a second time. at_fork="stop": it is told to stop at its next checkpoint. When it ends, so
does the child, as a program ends: with the status of sys.exit(), or the traceback of an exception and 1.

Why that survives fork: the state of one run of the target in one process is a Run (run.py). A child asks the inherited
Run only whether it was to go on, and makes its own (restart.py).

At the interpreter's end the thread is told to stop and waited for, at most park_timeout seconds. Interval targets are
not run once more: atexit functions run later, in one thread, and are the place for that. A loop can do it after its
wait(). Once started, it keeps itself and its target alive until it ends, as any thread does.

Not covered: a fork made by C does not wait (quiesce() around it does), and its child runs the target from the first
call of anything of forksafe on. A thread that waits at its own fork while another's is under way cannot park for it,
and is named in a warning at once. The very first one of a program, started while another thread forks, is not kept from
beginning. Locks that a thread holds while it is at a checkpoint are held in the child.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, overload

from forksafe.arguments import check_bool, check_callable, check_choice, seconds, seconds_or_none
from forksafe.atfork import quiesce
from forksafe.background import restart
from forksafe.background.run import AtFork, Run
from forksafe.locks import Condition, Lock
from forksafe_core import atfork

__all__ = ["BackgroundThread", "background_thread"]

_Target = Callable[..., object]

_NO_PLAIN_FUNCTION = 0x20 | 0x80 | 0x200  # code flags: generator, coroutine, asynchronous generator

_counting = Lock()
_numbered = 0


class BackgroundThread:
    """A thread for what runs beside the program: flushers of traces, metrics and logs. Not started: call start().

    interval: target(*args, **kwargs) is called every so many seconds, first when they have passed, and at once after
    wake(). An exception is reported to threading.excepthook and the next call comes in its time; sys.exit() ends it.
    Without interval, target(thread, *args, **kwargs) is called once, and is a loop around its checkpoint:

        def flush_all(thread):
            while not thread.wait(10):
                flush()
            flush()

    at_fork: "restart" runs the target from its start in children, too; "stop" leaves it to them to call start().
    park_timeout: seconds that a fork waits for the thread to come to a checkpoint before it goes ahead with a
    ForkHazardWarning, and that the interpreter's end waits for it. daemon: False has the end wait as long as it takes.

    TypeError or ValueError for arguments that are none of these.
    """

    __module__ = "forksafe"

    def __init__(
        self,
        target: _Target,
        *,
        interval: float | None = None,
        at_fork: AtFork = "restart",
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        park_timeout: float = 5.0,
        daemon: bool = True,
    ) -> None:
        _check_target(target)
        _check_options(at_fork, name, args, kwargs, daemon)
        self._target = target
        self._args, self._kwargs = tuple(args), dict(kwargs or {})
        self._interval = seconds_or_none(interval, "BackgroundThread(interval)", above_zero=True)
        self._at_fork = at_fork
        self._name = name or _new_name(target)
        self._park_timeout = seconds(park_timeout, "BackgroundThread(park_timeout)")
        self._daemon = daemon
        # Its lock is an RLock, as a signal handler may come while it is held, and fork.
        self._condition = Condition()
        self._run: Run | None = None

    # What a program calls.

    def start(self) -> None:
        """Start it; also again, once it has ended, and in a child where it is not running.

        RuntimeError while it is running, where the system has no more threads, and when the interpreter is ending.
        """
        atfork.generation()  # in a child hooks may be due
        if restart.is_interpreter_ending():
            raise RuntimeError(f"cannot start {self!r}: the interpreter is ending")
        with self._condition:
            last = self._run
            if last is not None and last.lives():
                raise RuntimeError(f"cannot start {self!r}: it is running; stop() it first, and wait for its end")
            self._run = run = Run(self)
        if last is not None:
            last.wait_until_gone()
        self._launch(run)

    def stop(self, timeout: float | None = None, *, wait: bool = True) -> bool:
        """Have it end at its next checkpoint; True when it has ended. A loop that has not begun begins, and is told so
        by its first wait().

        wait: for its end, at most timeout seconds. In the thread itself, and in one that pauses it (in a hook around
        a fork, or a block of quiesce()), it is told, and False returned at once. It is not started in children of later
        forks, nor in a child that is running its hooks. In a child the parent's run has ended: True.
        """
        limit = seconds_or_none(timeout, "BackgroundThread.stop(timeout)")
        run = self._tell_to_stop()
        if run is None:
            return True
        if not wait or run is threading.current_thread() or self._is_paused_by_this_thread():
            return False
        return run.wait_ended(limit)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most timeout seconds; is_alive() tells whether that came.

        RuntimeError if it was never started, and where its end cannot come: in the thread itself, and in one that
        pauses it. A child waits for its own run, if there is one.
        """
        limit = seconds_or_none(timeout, "BackgroundThread.join(timeout)")
        run = self._run
        if run is None:
            raise RuntimeError(f"cannot join {self!r}: it was never started")
        if run is threading.current_thread():
            raise RuntimeError(f"cannot join {self!r}: this is the thread itself")
        if run.lives() and self._is_paused_by_this_thread():
            raise RuntimeError(f"cannot join {self!r}: this thread keeps it paused, for a fork or by quiesce()")
        run.wait_ended(limit)

    def wake(self) -> None:
        """Have it leave its checkpoint now, or the next one it comes to: interval targets are run, wait() returns.

        Several calls before it does are one. Nothing happens while it is not running.
        """
        with self._condition:
            if self._run is not None:
                self._run.woken = True
                self._condition.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """The checkpoint, for the target alone: sleep for timeout seconds, for ever if it is None.

        True when it is to stop, at once. False when the time is up or wake() was called. Forks happen here: while one
        is under way, or a block of quiesce(), this does not return. RuntimeError in any other thread.
        """
        run = threading.current_thread()
        if not isinstance(run, Run) or run.owner is not self:
            raise RuntimeError(f"wait() is for the target of {self!r}; to wait for its end use join()")
        return run.checkpoint(seconds_or_none(timeout, "BackgroundThread.wait(timeout)"))

    @classmethod
    def current(cls) -> BackgroundThread | None:
        """The BackgroundThread that runs the calling code; None in other threads."""
        owner = getattr(threading.current_thread(), "owner", None)
        return owner if isinstance(owner, BackgroundThread) else None

    def is_alive(self) -> bool:
        """Whether it has been started, in this process, and has not ended."""
        atfork.generation()
        return self._run is not None and self._run.lives()

    @property
    def running(self) -> bool:
        """is_alive(), and not told to stop. A target that takes long can ask this without being at a checkpoint."""
        atfork.generation()
        run = self._run
        return run is not None and run.lives() and not run.is_to_stop()

    @property
    def target(self) -> _Target:
        """What it was made with; after @background_thread, the function."""
        return self._target

    @property
    def interval(self) -> float | None:
        """Seconds between two calls of the target, from the end of one to the next; None for a loop."""
        return self._interval

    @property
    def at_fork(self) -> AtFork:
        """What becomes of it in a child: "restart" or "stop"."""
        return self._at_fork

    @property
    def park_timeout(self) -> float:
        """Seconds that a fork, or the interpreter's end, waits for it."""
        return self._park_timeout

    @property
    def name(self) -> str:
        """The name of its threads, in parent and children."""
        return self._name

    @property
    def daemon(self) -> bool:
        """False: the interpreter's end waits for it as long as it takes."""
        return self._daemon

    @property
    def ident(self) -> int | None:
        """threading.get_ident() of its thread in this process; None while it is not running."""
        return self._run.ident if self._run is not None and self.is_alive() else None

    @property
    def native_id(self) -> int | None:
        """threading.get_native_id() of its thread in this process; None while it is not running."""
        return self._run.native_id if self._run is not None and self.is_alive() else None

    def __repr__(self) -> str:
        run = self._run
        state = "not started" if run is None else "not running" if not run.lives() else "running"
        if run is not None and run.lives() and run.is_to_stop():
            state = "stopping"
        every = "" if self._interval is None else f", every {self._interval:g} s"
        return f"<BackgroundThread({self._name}{every}, {state})>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a BackgroundThread cannot be pickled or copied: make one in each process, or fork")

    def _is_paused_by_this_thread(self) -> bool:
        return atfork.token() in quiesce.blockers(self)

    # For run.py and restart.py.

    def _launch(self, run: Run) -> None:
        try:
            quiesce.add(self, self._park_timeout)
            restart.remember(self)
            run.start()
        except BaseException:  # there is no thread; or, after Ctrl-C, there may be one
            with self._condition:
                run.stopping = True
                if not run.has_begun():  # else it ends at its next checkpoint; and if it yet begins, at its first
                    run.ended = True
                    restart.started.discard(self)
                self._condition.notify_all()
            raise

    def _has_ended(self, run: Run) -> None:
        with self._condition:
            run.ended = True
            if self._run is run:
                restart.started.discard(self)
            self._condition.notify_all()

    def _tell_to_stop(self) -> Run | None:
        """Its run, if that has not ended."""
        with self._condition:
            run = self._run
            if run is None:
                return None
            run.stopping = True  # also of one that vanished: the hook that would start it again may be yet to come
            self._condition.notify_all()
            return run if run.lives() else None

    def _restart_in_child(self) -> None:
        with self._condition:
            self._condition.notify_all()  # this thread may wait for its end, and have forked in a signal handler
            last = self._run
            if last is None or last.lives():  # it is the thread that forked, or was started here by another hook
                return
            restart.started.discard(self)
            atfork.keep_alive(last)  # with locks that its thread holds for ever
            begun_here = last.ident is None and not atfork.gone(last.starter)  # start() is yet to return
            if self._at_fork == "stop" or last.stopping or last.ended or begun_here:
                return
            if restart.is_interpreter_ending():
                return
            self._run = run = Run(self)
        self._launch(run)

    # For quiesce().

    def _apply_pauses(self) -> None:
        with self._condition:
            self._condition.notify_all()

    def _wait_until_idle(self, seconds: float) -> list[threading.Thread]:
        run = self._run
        return [] if run is None or run.wait_until_parked(seconds) else [run]


def _check_target(target: Any) -> None:
    check_callable(target, "BackgroundThread(target)")
    code = getattr(target, "__code__", None)
    if code is not None and code.co_flags & _NO_PLAIN_FUNCTION:
        raise TypeError(
            f"BackgroundThread(target) takes a plain function, not {target!r}: a call of that does nothing before it "
            "is awaited or iterated over. Pass a function that does so, with asyncio.run() or a loop"
        )


def _check_options(at_fork: object, name: object, args: object, kwargs: object, daemon: object) -> None:
    check_choice(at_fork, "BackgroundThread(at_fork)", ("restart", "stop"))
    if name is not None and not isinstance(name, str):
        raise TypeError(f"BackgroundThread(name) takes a string, not {name!r}")
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"BackgroundThread(args) takes a tuple of arguments, not {args!r}; for one: args=(value,)")
    if kwargs is not None and not hasattr(kwargs, "keys"):
        raise TypeError(f"BackgroundThread(kwargs) takes a dictionary of arguments, not {kwargs!r}")
    check_bool(daemon, "BackgroundThread(daemon)")


def _new_name(target: object) -> str:
    global _numbered
    with _counting:
        _numbered += 1
        return f"BackgroundThread-{_numbered} ({getattr(target, '__name__', type(target).__name__)})"


@overload
def background_thread(target: _Target, /) -> BackgroundThread: ...
@overload
def background_thread(
    *,
    interval: float | None = None,
    at_fork: AtFork = "restart",
    name: str | None = None,
    args: Iterable[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    park_timeout: float = 5.0,
    daemon: bool = True,
) -> Callable[[_Target], BackgroundThread]: ...
def background_thread(target: _Target | None = None, /, **options: Any) -> Any:
    """Decorator: makes the function the target of a BackgroundThread, which it returns and which is not started.

    Bare, or with BackgroundThread's arguments: @background_thread(interval=10). The function itself is its `target`.
    """

    def decorate(function: _Target) -> BackgroundThread:
        thread = BackgroundThread(function, **options)
        thread.__doc__ = function.__doc__
        return thread

    return decorate if target is None else decorate(target)
