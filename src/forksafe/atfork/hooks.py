"""Hooks around fork: os.register_at_fork's, which can be taken back, are weak for bound methods, and do not race.

Guarantees
  - `before` runs last registered first, `after_in_parent` and `after_in_child` first registered first.
  - Forks of several threads go through the hooks one at a time (for at most GATE_TIMEOUT seconds: a hook that
    never returns must not stop other threads' forks for ever).
  - A hook that raises is reported to sys.unraisablehook and the others still run.
  - A hook may fork: that fork runs all hooks but those that are running.
  - In a child whose fork ran no Python hooks (made by C), after_in_child hooks run at the first forksafe call,
    whichever thread makes it; `before` and after_in_parent cannot run then.
  - Locks made with hold=True are taken after the last `before` hook and given back on both sides.

Not covered: hooks that others registered with os.register_at_fork; those run in the interpreter's order.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from _weakref import ref

from forksafe.atfork.foreign_forks import note_fork_by_c
from forksafe.errors import ForkHazardWarning
from forksafe.locks import Lock, RLock
from forksafe_core import atfork, held_across_forks, hold_timeout, holder

__all__ = ["Registration", "after_in_child", "after_in_parent", "before", "register_at_fork"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    _Hook = Callable[[], object]
    _F = TypeVar("_F", bound=_Hook)

GATE_TIMEOUT = 10.0

_changing = Lock()
_registrations: tuple[Registration, ...] = ()  # replaced, never changed: forks walk it
_gate = RLock()
_at_gate: list[int] = []  # tokens of the threads that wait for it
_passages: dict[int, list[_Passage]] = {}  # by thread token: the forks it is going through, innermost last


class Registration:
    """What register_at_fork() returns: unregister() takes the hooks back."""

    __slots__ = ("__weakref__", "_hooks")

    def __init__(self, hooks: dict[str, _Hook]) -> None:
        self._hooks = {when: _reference(hook, self) for when, hook in hooks.items()}

    def unregister(self) -> None:
        """Take the hooks back. Once is enough, more does nothing; forks under way may still run them."""
        global _registrations
        with _changing:
            _registrations = tuple(each for each in _registrations if each is not self)

    def __repr__(self) -> str:
        hooks = ((when, find()) for when, find in self._hooks.items())
        said = [f"{when}={getattr(hook, '__qualname__', hook)}" for when, hook in hooks if hook is not None]
        if self not in _registrations:
            said.append("unregistered")
        return f"<forksafe.Registration {', '.join(said)}>"

    def _register(self) -> None:
        """Once is enough, more does nothing. The tuple alone says what is registered: a fork finds it whole."""
        global _registrations
        if self in _registrations:
            return
        with _changing:
            if self not in _registrations:
                _registrations = (*_registrations, self)
        _keep_the_order()

    def _run(self, when: str) -> None:
        find = self._hooks.get(when)
        hook = find and find()
        if hook:
            try:
                hook()
            except BaseException as error:  # as os.fork does: nothing may stop a fork half-way
                atfork.write_unraisable(error, hook)


class _Passage:
    """One fork, seen from the thread that makes it."""

    __slots__ = ("era", "forks", "gated", "held", "hooks", "overdue", "previous", "running")

    def __init__(self, hooks: tuple[Registration, ...], era: int = 0) -> None:
        self.hooks = hooks
        self.era = era
        self.forks = False  # it has been through `before`, and through nothing after it
        self.running: Registration | None = None
        self.held: list[Any] = []
        self.overdue: list[tuple[Any, int]] = []
        self.previous = 0
        self.gated = False

    def run(self, when: str, hooks: tuple[Registration, ...]) -> None:
        for registration in hooks:
            self.running = registration
            registration._run(when)
        self.running = None


def register_at_fork(
    *, before: _Hook | None = None, after_in_parent: _Hook | None = None, after_in_child: _Hook | None = None
) -> Registration:
    """Call these around every fork, as os.register_at_fork does, until unregister() of what is returned.

    A bound method is held weakly: when its object goes, so does the hook. TypeError for anything not callable.
    """
    given = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
    hooks = {when: hook for when, hook in given.items() if hook is not None}
    if not hooks:
        raise TypeError("register_at_fork() needs at least one of before, after_in_parent and after_in_child")
    for when, hook in hooks.items():
        if not callable(hook):
            raise TypeError(f"register_at_fork({when}=...) takes a callable, not {type(hook).__name__!r}")
    registration = Registration(hooks)
    registration._register()
    return registration


def before(hook: _F) -> _F:
    """Decorator: call this, without arguments, before every fork."""
    register_at_fork(before=hook)
    return hook


def after_in_parent(hook: _F) -> _F:
    """Decorator: call this, without arguments, in the parent after every fork, also one that failed."""
    register_at_fork(after_in_parent=hook)
    return hook


def after_in_child(hook: _F) -> _F:
    """Decorator: call this, without arguments, in every child."""
    register_at_fork(after_in_child=hook)
    return hook


def _reference(hook: _Hook, registration: Registration) -> Callable[[], _Hook | None]:
    if not isinstance(hook, types.MethodType):
        return lambda: hook
    from weakref import WeakMethod  # here, as other imports below: most programs never get here

    owner = ref(registration)

    def gone(_: object) -> None:
        alive = owner()
        if _changing is None:  # the interpreter shuts down and has emptied this module
            return
        if alive is not None and not any(find() for find in alive._hooks.values()):
            alive.unregister()

    return WeakMethod(hook, gone)


def _before(era: int) -> None:
    if not _registrations and not _passages and not held_across_forks():
        return  # then nothing has an order to keep
    me = atfork.token()
    stack = _passages.setdefault(me, [])
    if stack and stack[-1].forks and stack[-1].era > era:
        return  # those that were registered once more have begun this fork
    standard_lock = _let_go_of_standard_lock(era)  # nor may whoever waits at the gate have it
    gated = lock_gate()
    running = [passage.running for passage in stack]
    passage = _Passage(tuple(each for each in _registrations if each not in running), era)
    passage.gated = gated
    stack.append(passage)
    passage.run("before", passage.hooks[::-1])
    passage.held, passage.overdue = _take_held_locks(me)
    passage.previous = atfork.exchange_forking(me)
    passage.forks = True
    _take_again(standard_lock)


def _after_in_parent(era: int) -> None:
    stack = _passages and _passages.get(atfork.token())
    if not stack or stack[-1].era != era:
        return
    standard_lock = _let_go_of_standard_lock(era)
    passage = stack[-1]
    _leave(passage)
    passage.run("after_in_parent", passage.hooks)
    for lock, ident in passage.overdue:
        _warn_overdue(lock, ident)
    _pop(stack, passage)
    _take_again(standard_lock)
    _keep_the_order()


def _after_in_child(era: int) -> None:
    if not _passages:
        _run_due_hooks()
        return
    me = atfork.token()
    for token in [token for token in _passages if token != me]:
        del _passages[token]  # of threads that vanished
    stack = _passages.get(me)
    if not stack:  # there was nothing to do before, or a server calls the child half of fork alone
        _run_due_hooks()
        return
    if stack[-1].era != era:
        return
    _let_go_of_standard_lock(era)  # its own hook does so, too, when ours have run
    passage = stack[-1]
    _leave(passage)
    if atfork.mark_settled():
        passage.run("after_in_child", passage.hooks)
    _pop(stack, passage)
    _keep_the_order()


def _let_go_of_standard_lock(era: int) -> Any:
    """A hook may fork, and concurrent.futures.thread has a lock that it takes before each fork and cannot take twice.

    Where it was imported after our hooks were registered it has taken it when they begin, and gives it back after they
    have run. Returns the lock if it is to be taken again. Nobody waits for anything here while it has that lock. That
    another thread's fork may have it meanwhile is why this is for the first forks alone: see _keep_the_order().
    """
    module = _standard_module() if _first_after_standard is None or era < _first_after_standard else None
    if module is None:
        return None
    lock = module._global_shutdown_lock
    if not lock.locked():
        return None
    lock.release()
    return lock


def _standard_module() -> Any:
    """concurrent.futures.thread, if it has been imported as far as its hooks."""
    module = sys.modules.get("concurrent.futures.thread")
    return module if hasattr(module, "ThreadPoolExecutor") else None


def _keep_the_order() -> None:
    """Once concurrent.futures.thread has registered its hooks, register ours once more: then they are outside of its.
    The earlier ones go on with the forks that they have begun, and begin no other."""
    global _first_after_standard
    if _first_after_standard is None and _standard_module() is not None:
        with _changing:
            if _first_after_standard is None:
                _first_after_standard = 1
                _register(1)


def _register(era: int) -> None:
    os.register_at_fork(
        before=lambda: _before(era),
        after_in_parent=lambda: _after_in_parent(era),
        after_in_child=lambda: _after_in_child(era),
    )


def _take_again(lock: Any) -> None:
    if lock is not None:
        lock.acquire(timeout=GATE_TIMEOUT)


def _leave(passage: _Passage) -> None:
    passage.forks = False
    atfork.exchange_forking(passage.previous)
    unlock_across_forks(passage.held)


def lock_gate() -> bool:
    """Have other threads' forks wait, also for who forks by hand. Returns what unlock_gate() is to get."""
    me = atfork.token()
    _at_gate.append(me)
    try:
        return bool(_gate.acquire(timeout=GATE_TIMEOUT))
    finally:
        _at_gate.remove(me)


def unlock_gate(gated: bool) -> None:
    if gated:
        _gate.release()


def forking_idents() -> set[int]:
    """threading.get_ident() of the threads that fork or quiesce, or wait for another's fork in order to do so."""
    # In a child those that vanished at the gate are still in its list, and a new thread may have the ident of one.
    return {atfork.ident_of(token) for token in [*_passages, *_at_gate] if not atfork.gone(token)}


def lock_across_forks() -> list[Any]:
    """For who forks by hand: take the locks made with hold=True. Returns those that unlock_across_forks() is to get."""
    held, overdue = _take_held_locks(atfork.token())
    for lock, ident in overdue:
        _warn_overdue(lock, ident)
    return held


def unlock_across_forks(held: list[Any]) -> None:
    for lock in reversed(held):
        lock.release()


def _pop(stack: list[_Passage], passage: _Passage) -> None:
    stack.remove(passage)
    if not stack:
        _passages.pop(atfork.token(), None)
    unlock_gate(passage.gated)


def _late() -> None:
    """Called by the core: this child's hooks are due and no os.fork is going to run them."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _threading_after_fork:
            return  # the interpreter's own child hooks have begun after all; threading puts itself right first
        frame = frame.f_back
    try:
        note_fork_by_c()
    except Exception as error:  # whoever takes a lock just now is not to fail for it
        atfork.write_unraisable(error, note_fork_by_c)
    _run_due_hooks()


def _run_due_hooks() -> None:
    if atfork.mark_settled():
        _Passage(()).run("after_in_child", _registrations)


def _take_held_locks(me: int) -> tuple[list[Any], list[tuple[Any, int]]]:
    """Take the locks made with hold=True; what this thread has already stays as it is.

    While it has some it waits for another only briefly, then lets all go and begins with that one, so that no order
    in which other threads nest them can deadlock. Returns those taken, and those whose time ran out with their
    holders' idents.
    """
    locks = [lock for lock in held_across_forks() if holder(lock) != me]
    start = time.monotonic()
    patience = 0.001
    overdue: list[tuple[Any, int]] = []
    while True:
        held: list[Any] = []
        busy = None
        for lock in locks:
            ident = atfork.ident_of(holder(lock))
            left = start + (hold_timeout(lock) or 0) - time.monotonic()
            if not _try(lock, min(left, patience) if held else left, held):
                busy = lock
                break
        if busy is None:
            return held, overdue
        for lock in reversed(held):
            lock.release()
        locks.remove(busy)
        if left <= 0 or not held:
            overdue.append((busy, ident))
        else:
            locks.insert(0, busy)
        patience = min(patience * 2, 0.1)


def _try(lock: Any, timeout: float, taken: list[Any]) -> bool:
    try:
        got = lock.acquire(timeout=timeout) if timeout > 0 else lock.acquire(False)
    except BaseException as error:  # its repair raised, or a signal handler did: it is not taken
        atfork.write_unraisable(error, lock)
        return False
    if got:
        taken.append(lock)
    return bool(got)


def warn_of_hazard(message: str, where: object, stacklevel: int = 4) -> None:
    """Issue a ForkHazardWarning from a hook. With -W error it is reported: nothing may stop a fork half-way."""
    import warnings

    try:
        warnings.warn(message, ForkHazardWarning, stacklevel=stacklevel)
    except ForkHazardWarning as error:
        atfork.write_unraisable(error, where)


def _warn_overdue(lock: Any, ident: int) -> None:
    name = next((thread.name for thread in threading.enumerate() if thread.ident == ident), "a thread that ended")
    message = (
        f"a fork went ahead without {lock!r}, which {name} held for longer than hold_timeout={hold_timeout(lock):g} "
        "seconds: in the child it is free, and what it guards may be half changed"
    )
    warn_of_hazard(message, lock)


_forks_here = hasattr(os, "register_at_fork")
_first_after_standard = None if _forks_here and _standard_module() is None else 0  # the era of hooks; None: none yet
_threading_after_fork = getattr(getattr(threading, "_after_fork", None), "__code__", None)
if _forks_here:
    atfork.set_late_hooks(_late)
    _register(0)
