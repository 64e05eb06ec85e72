"""BackgroundThread: a thread that forks find at rest, and that goes on in parent and child.

Guarantees: a fork made by Python happens while the thread is at a checkpoint (in wait(), between two runs of an
interval target, not started, or ended), and so do the blocks of quiesce(). It leaves the checkpoint afterwards. A fork
waits at most park_timeout seconds; then it goes ahead, with a ForkHazardWarning that says where the thread was. In the
child its target is run anew by a thread of the child's own if it was running at the fork and nobody had told it to
stop (at_fork="restart"), or it can be started again (at_fork="stop"). Who is started while a fork is under way, or
within a block of quiesce(), begins when that is over.

If the target itself forks, the child is in the middle of it, and goes on there: the thread is running, as the child's
only one, and is not started a second time. at_fork="stop": it is told to stop at its next checkpoint. When it ends, so
does the child, as a program ends: with the status of sys.exit(), or the traceback of an exception and 1.

Why that survives fork: what belongs to one run of the target in one process is a Run (background_runs.py). A child
looks at none but to ask whether it was to go on, and makes its own; restarting.py has it do so.

At the interpreter's end it is told to stop and waited for, at most park_timeout seconds. Interval targets are not run
once more: atexit functions run later, in one thread, and are the place for that. A loop can do it after its wait().
Started, it keeps itself and its target alive, as any thread does, until it ends; not started, nothing does.

Not covered: a fork made by C waits for nobody (quiesce() around it does), and its child runs the target from the first
call of anything of forksafe on. A thread that waits at its own fork while another's is under way cannot come to rest
for it, and is named in a warning at once. The very first one of a program, started while another thread forks, is not
kept from beginning. Locks that a thread holds while it is at a checkpoint are its own affair.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NoReturn, overload

from forksafe.atfork import quiesce as quiescing
from forksafe.background import restart as restarting
from forksafe.background.run import Run
from forksafe.locks import Condition, Lock
from forksafe_core import atfork

__all__ = ["BackgroundThread", "background_thread"]

_Target = Callable[..., object]
_AtFork = Literal["restart", "stop"]

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
        at_fork: _AtFork = "restart",
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
        self._interval = _seconds_or_none(interval, "(interval)")
        if self._interval == 0:
            raise ValueError("BackgroundThread(interval) takes a number of seconds above 0: 0 would never come to rest")
        self._at_fork = at_fork
        self._name = name or _new_name(target)
        self._park_timeout = quiescing.seconds(park_timeout, "BackgroundThread(park_timeout)")
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
        if restarting.is_interpreter_ending():
            raise RuntimeError(f"cannot start {self!r}: the interpreter is ending")
        with self._condition:
            last = self._run
            if last is not None and last.lives():
                raise RuntimeError(f"cannot start {self!r}: it is running; stop() it first, and wait for its end")
            self._run = run = Run(self)
        if last is not None:
            last.wait_torn_down()
        self._launch(run)

    def stop(self, timeout: float | None = None, *, wait: bool = True) -> bool:
        """Have it end at its next checkpoint; True when it has ended. A loop that has not begun begins, and is told so
        by its first wait().

        wait: for its end, at most timeout seconds. By the thread itself, and by one that keeps it at rest (in a hook
        around a fork, or a block of quiesce()), it is told, and False returned at once. It is not started in children
        of later forks, nor in the child whose hooks are running. In a child the parent's run has ended: True.
        """
        limit = _seconds_or_none(timeout, ".stop(timeout)")
        run = self._tell_to_stop()
        if run is None:
            return True
        if not wait or run is threading.current_thread() or self._is_kept_at_rest_here():
            return False
        return run.wait_ended(limit)

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, at most timeout seconds; is_alive() tells whether that came.

        RuntimeError if it was never started, and where its end cannot come: in the thread itself, and in one that
        keeps it at rest. In a child it is the child's own run that is waited for, if there is one.
        """
        limit = _seconds_or_none(timeout, ".join(timeout)")
        run = self._run
        if run is None:
            raise RuntimeError(f"cannot join {self!r}: it was never started")
        if run is threading.current_thread():
            raise RuntimeError(f"cannot join {self!r}: this is the thread itself")
        if run.lives() and self._is_kept_at_rest_here():
            raise RuntimeError(f"cannot join {self!r}: this thread keeps it at rest, for a fork or by quiesce()")
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
        return run.checkpoint(_seconds_or_none(timeout, ".wait(timeout)"))

    @classmethod
    def current(cls) -> BackgroundThread | None:
        """The one whose target calls this; None in other threads."""
        run = threading.current_thread()
        return run.owner if isinstance(run, Run) else None

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
    def at_fork(self) -> _AtFork:
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

    def _is_kept_at_rest_here(self) -> bool:
        return atfork.token() in quiescing.keepers(self)

    # For background_runs.py and restarting.py.

    def _launch(self, run: Run) -> None:
        try:
            quiescing.add(self)
            restarting.add(self)
            run.start()
        except BaseException:  # there is no thread; or, after Ctrl-C, there may be one
            with self._condition:
                run.stopping = True
                if not run.has_begun():  # else it ends at its next checkpoint; and if it yet begins, at its first
                    run.ended = True
                    restarting.discard(self)
                self._condition.notify_all()
            raise

    def _has_ended(self, run: Run) -> None:
        with self._condition:
            run.ended = True
            if self._run is run:
                restarting.discard(self)
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

    def _go_on_in_child(self) -> None:
        with self._condition:
            self._condition.notify_all()  # who was waiting for its end, and forked in a signal handler
            last = self._run
            if last is None or last.lives():  # it is the thread that forked, or was started here by another hook
                return
            restarting.discard(self)
            atfork.keep_alive(last)  # with locks that its thread holds for ever
            begun_here = last.ident is None and not atfork.gone(last.starter)  # start() is yet to return
            if self._at_fork == "stop" or last.stopping or last.ended or begun_here:
                return
            if restarting.is_interpreter_ending():
                return
            self._run = run = Run(self)
        self._launch(run)

    # For quiescing.py.

    @property
    def fork_grace(self) -> float:
        """park_timeout."""
        return self._park_timeout

    def heed_rests(self) -> None:
        """Leave no checkpoint while it is at rest."""
        with self._condition:
            self._condition.notify_all()

    def wait_for_rest(self, seconds: float) -> list[threading.Thread]:
        """Its thread, if that is at no checkpoint after so many seconds."""
        run = self._run
        return [] if run is None or run.comes_to_rest(seconds) else [run]


def _check_target(target: Any) -> None:
    if not callable(target):
        raise TypeError(f"BackgroundThread(target) takes a callable, not {target!r}")
    code = getattr(target, "__code__", None)
    if code is not None and code.co_flags & _NO_PLAIN_FUNCTION:
        raise TypeError(
            f"BackgroundThread(target) takes a plain function, not {target!r}, whose call does nothing before it is "
            "awaited or iterated over: have a function do that, with asyncio.run() or a loop"
        )


def _check_options(at_fork: object, name: object, args: object, kwargs: object, daemon: object) -> None:
    if at_fork not in ("restart", "stop"):
        raise ValueError(f'BackgroundThread(at_fork) is "restart" or "stop", not {at_fork!r}')
    if name is not None and not isinstance(name, str):
        raise TypeError(f"BackgroundThread(name) takes a string, not {name!r}")
    if not isinstance(args, (tuple, list)):
        raise TypeError(f"BackgroundThread(args) takes a tuple of arguments, not {args!r}; for one: args=(value,)")
    if kwargs is not None and not hasattr(kwargs, "keys"):
        raise TypeError(f"BackgroundThread(kwargs) takes a dictionary of arguments, not {kwargs!r}")
    if not isinstance(daemon, bool):
        raise TypeError(f"BackgroundThread(daemon) takes True or False, not {daemon!r}")


def _new_name(target: object) -> str:
    global _numbered
    with _counting:
        _numbered += 1
        return f"BackgroundThread-{_numbered} ({getattr(target, '__name__', type(target).__name__)})"


def _seconds_or_none(value: object, what: str) -> float | None:
    return None if value is None else quiescing.seconds(value, f"BackgroundThread{what}")


@overload
def background_thread(target: _Target, /) -> BackgroundThread: ...
@overload
def background_thread(
    *,
    interval: float | None = None,
    at_fork: _AtFork = "restart",
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
