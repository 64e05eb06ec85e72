"""@resource: a function that connects becomes a value of each process, made at first use.

Guarantees
  - A process makes its value when it first asks. If several threads ask, one makes it and the others wait. What the
    maker raises goes to the thread that ran it, and the next thread that asks tries again.
  - In a child the inherited value is abandoned, and the child makes one of its own at first use. ownership.py says
    what happens to the old one, and how values are cleaned up at exit. This holds whichever way the fork was made.
  - Asking for a value that is there costs a call and a comparison; no lock is taken.

Why that survives fork: a value carries the generation that made it, which is compared each time. The lock that makers
hold is free in a child if its holder vanished; what that thread had half made is not touched.

Not covered: a value that the program got before a fork and kept: in a child that is the inherited one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, Literal, Protocol, TypeVar, overload
from weakref import WeakValueDictionary

from forksafe.descriptors.search import Fds
from forksafe.errors import InheritedResourceError
from forksafe.locks import RLock, local
from forksafe.resources import ownership
from forksafe.resources.ownership import Finalizer, Owned, OwnershipPolicy
from forksafe_core import atfork

__all__ = ["Resource", "resource"]

T = TypeVar("T")
OnFork = Literal["discard", "transfer", "raise"]

_generation = atfork.generation


class Resource(Generic[T]):
    """What resource() returns: call it without arguments for this process's value."""

    def __init__(
        self, maker: Callable[[], Any], close: Callable[[Any], object] | None, policy: OwnershipPolicy
    ) -> None:
        functools.update_wrapper(self, maker, updated=())
        self._maker = maker
        self._is_generator = _is_generator_function(maker)
        self._close = close
        self._policy = policy
        self._lock = RLock()  # held while the value is made or ended
        self._making: tuple[int, int] | None = None  # the thread in the maker, and the generation it began in
        self._owned: Owned | None = None
        self._finalizer: Finalizer | None = None

    def __call__(self) -> T:
        """This process's value, made by the first call. Raises what the maker raises, and then has none.

        RuntimeError when the maker asks for its own value. InheritedResourceError in a child of the process that
        made it, with on_fork="raise"; and in a child that the maker itself forked, once the maker returns there.
        """
        owned = self._owned
        if owned is not None and owned.generation == _generation():
            value: T = owned.value
            return value
        return self._make()

    @property
    def made(self) -> bool:
        """True while this process has a value; with per_thread=True, while this thread has."""
        owned = self._last()
        return owned is not None and owned.generation == _generation()

    def _last(self) -> Owned | None:
        """What was made last, in whichever generation."""
        return self._owned

    def close(self) -> None:
        """Clean this process's value up now, if it has one; with per_thread=True, those of all its threads.

        Raises what the clean-up raises; the value is gone all the same. The next call makes a new one. In a child
        nothing happens to what was inherited.
        """
        ownership.abandon_inherited()
        with self._lock:
            owned, finalizer = self._owned, self._finalizer
            if owned is not None and owned.generation == _generation():
                self._owned = self._finalizer = None
                ownership.end(owned)
            del finalizer  # alone, it would end the value and swallow what that raises

    def __repr__(self) -> str:
        return f"<forksafe.{self._policy.name}, {'made' if self.made else 'not made'}>"

    def __reduce__(self) -> str:
        return str(vars(self)["__qualname__"])  # as functions are: another process finds its own by this name

    def _make(self) -> T:
        ownership.abandon_inherited()
        me = (atfork.token(), _generation())
        self._refuse_recursion(self._making == me)
        with self._lock:
            if not self.made:
                self._refuse_inherited()
                before, self._making = self._making, me
                try:
                    owned = self._start()
                finally:
                    self._making = before
                self._owned, self._finalizer = owned, Finalizer(owned)
            value: T = self._owned.value  # type: ignore[union-attr]
            return value

    def _start(self) -> Owned:
        """Run the maker. Its value is this process's, unless the maker forked and this is the child."""
        generation = _generation()
        ownership.warn_locked(self._policy, stacklevel=5)
        clean_up: Callable[[], object] | None = None
        value = self._maker()
        if self._is_generator:
            generator = value
            clean_up = functools.partial(_resume, generator, self._policy.name)
            value = _first_of(generator, self._policy.name)
        elif inspect.iscoroutine(value):
            value.close()
            raise TypeError(f"{self._policy.name} returned a coroutine: resource() has no event loop to run it in")
        elif self._close is not None:
            clean_up = functools.partial(self._close, value)
        forked = generation != _generation()
        try:
            owned = ownership.own(value, self._policy, clean_up, stacklevel=6)
        except BaseException:
            if clean_up is not None:
                clean_up()
            raise
        if forked:
            ownership.abandon(owned)
            raise InheritedResourceError(
                f"{self._policy.name} forked while it made its value, and this is the child: the value belongs to the "
                "parent. Let the child end inside the maker, or ask again for one of this process's own"
            )
        return owned

    def _refuse_recursion(self, recursive: bool) -> None:
        if recursive:
            raise RuntimeError(f"{self._policy.name} asks for its own value while it makes it: use what it has so far")

    def _refuse_inherited(self) -> None:
        if self._policy.on_fork == "raise" and self._policy.inherited:
            raise InheritedResourceError(
                f"the value of {self._policy.name}, made with on_fork='raise', belongs to the process that made it, "
                "and this is a child of that process: let the parent use it, or make it with on_fork='discard'"
            )


class _PerThread(Resource[T]):
    """One value for each thread; it is cleaned up when its thread ends, or with the process."""

    def __init__(
        self, maker: Callable[[], Any], close: Callable[[Any], object] | None, policy: OwnershipPolicy
    ) -> None:
        super().__init__(maker, close, policy)
        self._local = local()  # empty in a child: its values are abandoned
        self._everyones: WeakValueDictionary[int, Owned] = WeakValueDictionary()

    def __call__(self) -> T:
        owned: Owned | None = getattr(self._local, "owned", None)
        if owned is not None and owned.generation == _generation():
            value: T = owned.value
            return value
        return self._make()

    def _last(self) -> Owned | None:
        return getattr(self._local, "owned", None)

    def close(self) -> None:
        ownership.abandon_inherited()
        errors = []
        for owned in list(self._everyones.values()):
            try:
                ownership.end(owned)
            except Exception as error:  # the others are still cleaned up
                errors.append(error)
        for further in errors[1:]:
            atfork.write_unraisable(further, self)
        if errors:
            raise errors[0]

    def _make(self) -> T:
        ownership.abandon_inherited()
        mine = self._local
        generation = _generation()
        self._refuse_recursion(getattr(mine, "making", None) == generation)
        self._refuse_inherited()
        mine.making = generation
        try:
            owned = self._start()
        finally:
            self._local.making = None
        self._everyones[id(owned)] = mine.owned = owned
        mine.finalizer = Finalizer(owned)
        value: T = owned.value
        return value


@overload
def resource(
    maker: Callable[[], Generator[T, Any, Any]],
    /,
    *,
    per_thread: bool = ...,
    fds: Fds | None = ...,
    on_fork: OnFork = ...,
) -> Resource[T]: ...
@overload
def resource(
    maker: Callable[[], T],
    /,
    *,
    per_thread: bool = ...,
    close: Callable[[T], object] | None = ...,
    fds: Callable[[T], int | Iterable[Any]] | Iterable[Any] | None = ...,
    on_fork: OnFork = ...,
) -> Resource[T]: ...
@overload
def resource(
    *, per_thread: bool = ..., close: Callable[[Any], object] | None = ..., fds: Fds | None = ..., on_fork: OnFork = ...
) -> _Decorator: ...
def resource(
    maker: Callable[[], Any] | None = None,
    /,
    *,
    per_thread: bool = False,
    close: Callable[[Any], object] | None = None,
    fds: Fds | None = None,
    on_fork: OnFork = "discard",
) -> Any:
    """Turn a function that connects into a value of each process: `db = resource(connect)`, then `db()`.

    maker: takes no arguments. A generator function yields its value once and is resumed to clean up.
    per_thread: one value for each thread, cleaned up when the thread ends. close: close(value) cleans up.
    fds: where the value's descriptors are, when they cannot be found: a callable that is given the value, or an
    iterable; of ints or of objects with fileno(). () says that there are none.
    on_fork: what becomes of the value in a child. "discard": it is abandoned, the child makes one of its own.
    "transfer": the next child made by os.fork() has it, the parent's copy dies and the parent makes a new one when it
    asks again. "raise": it is abandoned, and the child that asks gets InheritedResourceError.

    Without maker: a decorator. TypeError or ValueError for bad input. Descriptors that cannot be found are an
    UnknownDescriptorsWarning when the value is made.
    """
    if maker is None:
        return functools.partial(resource, per_thread=per_thread, close=close, fds=fds, on_fork=on_fork)
    _check_maker(maker)
    if close is not None and not callable(close):
        raise TypeError(f"resource(close=...) takes a callable that is given the value, not {close!r}")
    if close is not None and _is_generator_function(maker):
        raise TypeError("resource(close=...) is for functions that return: let a generator clean up after its yield")
    if fds is not None and not callable(fds):
        try:
            fds = tuple(fds)
        except TypeError:
            raise TypeError(f"resource(fds=...) takes a callable or an iterable of descriptors, not {fds!r}") from None
    if on_fork not in ("discard", "transfer", "raise"):
        raise ValueError(f"resource(on_fork=...) takes 'discard', 'transfer' or 'raise', not {on_fork!r}")
    if per_thread and on_fork == "transfer":
        raise ValueError("resource(per_thread=True) cannot transfer: a child has none of its parent's threads' values")
    name = f"resource {getattr(maker, '__qualname__', None) or repr(maker)}()"
    return (_PerThread if per_thread else Resource)(maker, close, OwnershipPolicy(name, fds, on_fork))


class _Decorator(Protocol):
    @overload
    def __call__(self, maker: Callable[[], Generator[T, Any, Any]], /) -> Resource[T]: ...
    @overload
    def __call__(self, maker: Callable[[], T], /) -> Resource[T]: ...
    def __call__(self, maker: Callable[[], Any], /) -> Any: ...


def _check_maker(maker: Any) -> None:
    if not callable(maker):
        raise TypeError(f"resource() takes a callable that makes a value, not {maker!r}")
    for function in (_unwrapped(maker), getattr(maker, "__call__", None)):  # noqa: B004
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                "resource() takes a function that returns the value itself; this one is async, and there is no event "
                "loop to run it in where the value is asked for: make the client in a plain function, connect later"
            )
    try:
        inspect.signature(maker).bind()
    except ValueError:  # a builtin that does not tell
        return
    except TypeError as error:
        raise TypeError(
            f"resource() takes a callable without required arguments ({error}): bind them by functools.partial or a "
            "lambda; for a method, in __init__: self.db = forksafe.resource(self.connect)"
        ) from None


def _unwrapped(maker: Any) -> Any:
    while isinstance(maker, functools.partial):
        maker = maker.func
    return maker


def _is_generator_function(maker: Any) -> bool:
    return any(
        inspect.isgeneratorfunction(each)
        for each in (_unwrapped(maker), getattr(maker, "__call__", None))  # noqa: B004
    )


def _first_of(generator: Any, name: str) -> Any:
    try:
        return next(generator)
    except StopIteration:
        raise RuntimeError(f"{name} yielded nothing: a generator for resource() yields its value once") from None


def _resume(generator: Any, name: str) -> None:
    try:
        next(generator)
    except StopIteration:
        return
    generator.close()
    raise RuntimeError(f"{name} yielded a second time: a generator for resource() yields once, then cleans up")
