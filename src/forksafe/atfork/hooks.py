"""Hooks around fork: os.register_at_fork's, which can be taken back, are weak for bound methods, and do not race.

Guarantees
  - `before` runs last registered first, `after_in_parent` and `after_in_child` first registered first.
  - The forks of several threads go through the hooks one at a time (gate.py).
  - A hook that raises is reported to sys.unraisablehook, and the others still run.
  - A hook may fork: that fork runs all hooks but those that are running.
  - After a fork that ran no Python hooks (made by C), the child runs after_in_child hooks at the first forksafe call,
    whichever thread makes it. `before` and after_in_parent cannot run then.
  - Locks made with hold=True are taken after the last `before` hook, and released before the `after_*` hooks.

Why that survives fork: the tuple of registrations is replaced as a whole, so a fork finds it whole. A child forgets the
forks that other threads of its parent were making.

Not covered: hooks that others registered with os.register_at_fork; those run in the interpreter's order.
"""

from __future__ import annotations

import os
import sys
import threading
import types
from _weakref import ref

from forksafe.atfork.foreign_forks import on_foreign_fork
from forksafe.atfork.gate import (
    GATE_TIMEOUT,
    lock_across_forks,
    lock_gate,
    tokens_at_gate,
    unlock_across_forks,
    unlock_gate,
    warn_of_overdue,
)
from forksafe.locks import Lock
from forksafe_core import atfork, held_across_forks

__all__ = ["Registration", "after_in_child", "after_in_parent", "before", "forking_idents", "register_at_fork"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    _Hook = Callable[[], object]
    _F = TypeVar("_F", bound=_Hook)

_changing = Lock()
_registrations: tuple[Registration, ...] = ()  # replaced, never changed: forks walk it
_under_way: dict[int, list[_ForkInProgress]] = {}  # by thread token: the forks it is making, innermost last


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
    from weakref import WeakMethod  # here, for most programs never get here

    owner = ref(registration)

    def gone(_: object) -> None:
        alive = owner()
        if _changing is None:  # the interpreter shuts down and has emptied this module
            return
        if alive is not None and not any(find() for find in alive._hooks.values()):
            alive.unregister()

    return WeakMethod(hook, gone)


def forking_idents() -> set[int]:
    """threading.get_ident() of the threads that fork or quiesce, or wait for another's fork in order to do so."""
    # In a child a new thread may have the ident of one that vanished.
    return {atfork.ident_of(token) for token in [*_under_way, *tokens_at_gate()] if not atfork.gone(token)}


class _ForkInProgress:
    """One fork, seen from the thread that makes it. epoch: see _keep_the_order()."""

    __slots__ = ("epoch", "gate_locked", "held", "hooks", "is_forking", "overdue", "previous", "running")

    def __init__(self, hooks: tuple[Registration, ...], epoch: int = 0, gate_locked: bool = False) -> None:
        self.hooks = hooks
        self.epoch = epoch
        self.gate_locked = gate_locked
        self.is_forking = False  # `before` is over, and nothing after it has begun
        self.running: Registration | None = None

    def run(self, when: str, hooks: tuple[Registration, ...]) -> None:
        for registration in hooks:
            self.running = registration
            registration._run(when)
        self.running = None

    def begin(self) -> None:
        """The last step before the fork."""
        self.held, self.overdue = lock_across_forks()
        self.previous = atfork.exchange_forking(atfork.token())
        self.is_forking = True

    def end(self) -> None:
        """The first step after the fork, in parent and child."""
        self.is_forking = False
        atfork.exchange_forking(self.previous)
        unlock_across_forks(self.held)

    def forget(self, stack: list[_ForkInProgress]) -> None:
        """The last step, in parent and child."""
        stack.remove(self)
        if not stack:
            _under_way.pop(atfork.token(), None)
        unlock_gate(self.gate_locked)


def _before(epoch: int) -> None:
    if not _registrations and not _under_way and not held_across_forks():
        return  # then nothing has an order to keep
    stack = _under_way.setdefault(atfork.token(), [])
    if stack and stack[-1].is_forking and stack[-1].epoch > epoch:
        return  # the hooks that were registered once more have begun this fork
    standard_lock = _release_standard_lock(epoch)  # a thread that waits at the gate must not have it either
    gate_locked = lock_gate()
    running = [fork.running for fork in stack]
    fork = _ForkInProgress(tuple(each for each in _registrations if each not in running), epoch, gate_locked)
    stack.append(fork)
    fork.run("before", fork.hooks[::-1])
    fork.begin()
    _acquire_standard_lock(standard_lock)


def _after_in_parent(epoch: int) -> None:
    stack = _under_way and _under_way.get(atfork.token())
    if not stack or stack[-1].epoch != epoch:
        return
    standard_lock = _release_standard_lock(epoch)
    fork = stack[-1]
    fork.end()
    fork.run("after_in_parent", fork.hooks)
    warn_of_overdue(fork.overdue)
    fork.forget(stack)
    _acquire_standard_lock(standard_lock)
    _keep_the_order()


def _after_in_child(epoch: int) -> None:
    me = atfork.token()
    for token in [token for token in _under_way if token != me]:
        del _under_way[token]  # of threads that vanished
    stack = _under_way.get(me)
    if not stack:  # there was nothing to do before, or a server calls the child half of fork alone
        _run_due_hooks()
        return
    if stack[-1].epoch != epoch:
        return
    _release_standard_lock(epoch)  # its own hook does so, too, when ours have run
    fork = stack[-1]
    fork.end()
    if atfork.mark_settled():
        fork.run("after_in_child", fork.hooks)
    fork.forget(stack)
    _keep_the_order()


def _late() -> None:
    """Called by the core: this child's hooks are due and no os.fork is going to run them."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _threading_after_fork:
            return  # the interpreter's own child hooks have begun after all; threading puts itself right first
        frame = frame.f_back
    try:
        on_foreign_fork()
    except Exception as error:  # it is not an error of the call that found the fork
        atfork.write_unraisable(error, on_foreign_fork)
    _run_due_hooks()


def _run_due_hooks() -> None:
    if atfork.mark_settled():
        _ForkInProgress(()).run("after_in_child", _registrations)


def _release_standard_lock(epoch: int) -> Any:
    """Release the lock that concurrent.futures.thread takes before each fork and cannot take twice: a hook may fork.

    Where that was imported after our hooks were registered it has taken the lock when they begin, and releases it after
    they have run. Returns the lock if it is to be taken again. Nothing waits here while this thread has it. Another
    thread's fork may have it, so this is for the first forks alone: see _keep_the_order().
    """
    module = _standard_module() if _first_after_standard is None or epoch < _first_after_standard else None
    if module is None:
        return None
    lock = module._global_shutdown_lock
    if not lock.locked():
        return None
    lock.release()
    return lock


def _acquire_standard_lock(lock: Any) -> None:
    if lock is not None:
        lock.acquire(timeout=GATE_TIMEOUT)


def _standard_module() -> Any:
    """concurrent.futures.thread, if it has been imported as far as its hooks."""
    module = sys.modules.get("concurrent.futures.thread")
    return module if hasattr(module, "ThreadPoolExecutor") else None


def _keep_the_order() -> None:
    """Once concurrent.futures.thread has registered its hooks, register ours once more: then they are outside of its.
    The earlier ones end the forks that they have begun, and begin no other."""
    global _first_after_standard
    if _first_after_standard is None and _standard_module() is not None:
        with _changing:
            if _first_after_standard is None:
                _first_after_standard = 1
                _register(1)


def _register(epoch: int) -> None:
    os.register_at_fork(
        before=lambda: _before(epoch),
        after_in_parent=lambda: _after_in_parent(epoch),
        after_in_child=lambda: _after_in_child(epoch),
    )


_forks_here = hasattr(os, "register_at_fork")
_first_after_standard = None if _forks_here and _standard_module() is None else 0  # the epoch of hooks; None: none yet
_threading_after_fork = getattr(getattr(threading, "_after_fork", None), "__code__", None)
if _forks_here:
    atfork.set_late_hooks(_late)
    _register(0)
