"""close_on_fork(), keep_on_fork(): descriptors that children must not have.

Guarantees: in every child, whichever way the fork was made, a flagged descriptor is a tombstone before any Python
runs there. A socket is one whose peer has gone: sending raises BrokenPipeError, receiving gives end of file. Anything
else (file, pipe, epoll) cannot be used: EBADF. The number stays taken, so that closing it, now or by a finaliser,
closes nothing else. The parent's descriptor is untouched.

The flag belongs to the open file, not to the number: when it is closed, the flag ends. On Linux the file itself is
marked. Elsewhere one file is told from the next under the same number by its inode, and the object that was given is
asked, before each fork, whether it is still open.

subprocess: a program started by vfork, as usual, gets what it would get without flags, pass_fds included. With
preexec_fn, user= or group= there is a fork first: what is flagged is dead in preexec_fn and in the program, also if
pass_fds names it.

Not covered: away from Linux, an int for a file that is closed before the same file gets its number again: call
keep_on_fork() before closing it. A child made with clone(CLONE_FILES) shares the table itself: its flagged
descriptors are dealt with where the kernel lets it have a table of its own, else left alone. What text a buffered
file holds at the fork cannot be written by the child: flush it before.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from forksafe.atfork.hooks import register_at_fork
from forksafe_core import atfork

__all__ = ["close_on_fork", "keep_on_fork"]


class HasFileno(Protocol):
    def fileno(self) -> int: ...


_X = TypeVar("_X", bound="int | HasFileno | Callable[..., Any]")
_D = TypeVar("_D", bound="int | HasFileno")

_watched: dict[int, weakref.ref[Any]] = {}  # by number: files that only their objects know to be closed
_watching = False


def close_on_fork(x: _X) -> _X:
    """In every child, put a tombstone over this descriptor; returns x.

    x: a descriptor's number, or anything open with a fileno(). A function is returned wrapped: what it returns is
    flagged, as in `connect = close_on_fork(socket.create_connection)`. Closing x ends it.
    TypeError or ValueError for what has no descriptor, OSError for a number that is not open.
    """
    if callable(x) and not isinstance(x, type) and not hasattr(x, "fileno"):
        wrapped: _X = _flagging(x)
        return wrapped
    descriptor = _descriptor_of(x, "close_on_fork")
    certain = atfork.flag(descriptor)
    _watched.pop(descriptor, None)
    if not certain and not isinstance(x, int):
        _watch(descriptor, x)
    return x


def keep_on_fork(x: _D) -> _D:
    """Undo close_on_fork(x): children share the descriptor again, as without forksafe; returns x.

    Nothing happens if x was not flagged. Errors are those of close_on_fork().
    """
    descriptor = _descriptor_of(x, "keep_on_fork")
    _watched.pop(descriptor, None)
    atfork.unflag(descriptor)
    return x


def _flagging(function: Any) -> Any:
    @functools.wraps(function)
    def flagged(*args: Any, **kwargs: Any) -> Any:
        return close_on_fork(function(*args, **kwargs))

    return flagged


def _descriptor_of(x: object, name: str) -> int:
    if isinstance(x, int) and not isinstance(x, bool):
        descriptor: object = x
    else:
        try:
            descriptor = x.fileno()  # type: ignore[attr-defined]
        except (AttributeError, TypeError):
            raise TypeError(
                f"{name}() takes a descriptor's number, or an open object with a fileno(), not {x!r}"
            ) from None
        except (OSError, ValueError) as error:  # closed, or a file in memory
            raise ValueError(
                f"{name}() needs an open descriptor, and this {type(x).__name__} has none: {error}"
            ) from None
    if not isinstance(descriptor, int):
        raise TypeError(f"{name}(): fileno() of this {type(x).__name__} is {descriptor!r}, which is no descriptor")
    if descriptor < 0:
        what = "there is no descriptor" if descriptor is x else f"this {type(x).__name__} is closed:"
        raise ValueError(f"{name}() needs an open descriptor, and {what} {descriptor}")
    return descriptor


def _watch(descriptor: int, x: Any) -> None:
    global _watching

    def gone(reference: weakref.ref[Any]) -> None:
        if _watched.get(descriptor) is reference:
            _end(descriptor)

    try:
        _watched[descriptor] = weakref.ref(x, gone)
    except TypeError:  # select.epoll, for one: then it is as with a number
        return
    if not _watching:
        _watching = True
        register_at_fork(before=_end_closed, after_in_child=_watched.clear)


def _end(descriptor: int) -> None:
    _watched.pop(descriptor, None)
    atfork.unflag(descriptor)


def _end_closed() -> None:
    for descriptor, reference in list(_watched.items()):
        x = reference()
        try:
            still_open = x is not None and x.fileno() == descriptor
        except (OSError, ValueError):
            still_open = False
        if not still_open:
            _end(descriptor)
