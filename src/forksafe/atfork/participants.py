"""Participants: the objects that a module acts on around each fork.

Guarantees
  - Members are held weakly, by identity: they may be unhashable or define __eq__. strong=True keeps them.
  - The fork hooks are registered with the first member. A program that has no member pays nothing.
  - Each callback is called for each living member, in the order in which they were added. An exception goes to
    sys.unraisablehook, and the others are still called.

Why that survives fork: a member is added, removed and copied in one step, also without the GIL, so a fork in another
thread finds the dictionary whole. Whether the hooks are registered is asked of the tuple that forks walk.

Not covered: a member that is added while a fork is under way may miss the callbacks of that fork.
"""

from __future__ import annotations

from _weakref import ref

from forksafe.atfork.hooks import Registration
from forksafe_core import atfork

__all__ = ["Participants"]

TYPE_CHECKING = False  # importing typing takes longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


class Participants:
    """A set of members, and the callbacks that are called with each of them around a fork.

    together: the callbacks are called once for each fork, with the list of all living members.
    A member can have a value, which is kept as long as the member.
    """

    def __init__(
        self,
        *,
        before: Callable[[Any], object] | None = None,
        after_in_parent: Callable[[Any], object] | None = None,
        after_in_child: Callable[[Any], object] | None = None,
        strong: bool = False,
        together: bool = False,
    ) -> None:
        self._members: dict[int, tuple[Callable[[], Any], Any]] = {}  # by id: a reference, and the value
        self._strong = strong
        callbacks = {"before": before, "after_in_parent": after_in_parent, "after_in_child": after_in_child}
        hooks = {when: self._hook(callback, together) for when, callback in callbacks.items() if callback is not None}
        self._registration = Registration(hooks) if hooks else None

    def add(self, member: object, value: object = None) -> None:
        """Add a member, or replace its value. TypeError if it cannot be referred to weakly."""
        key, members = id(member), self._members
        reference = (lambda: member) if self._strong else ref(member, lambda _: members.pop(key, None))
        members[key] = reference, value
        if self._registration is not None:
            self._registration._register()

    def discard(self, member: object) -> None:
        """Remove a member, if it is one."""
        self._members.pop(id(member), None)

    def clear(self) -> None:
        """Remove all members and unregister the hooks, until a member is added."""
        self._members.clear()
        if self._registration is not None:
            self._registration.unregister()

    def get(self, member: object) -> Any:
        """The value that the member was added with; None if it is no member."""
        return self._members.get(id(member), (None, None))[1]

    def __contains__(self, member: object) -> bool:
        return id(member) in self._members

    def __iter__(self) -> Iterator[Any]:
        """The living members, as they are now."""
        found = [reference() for reference, _ in list(self._members.values())]
        return iter([member for member in found if member is not None])

    def __len__(self) -> int:
        return len(self._members)

    def _hook(self, callback: Callable[[Any], object], together: bool) -> Callable[[], object]:
        def call_each() -> None:
            for member in self:
                try:
                    callback(member)
                except BaseException as error:  # as with hooks: the others are still called
                    atfork.write_unraisable(error, callback)

        hook = (lambda: callback(list(self))) if together else call_each
        hook.__name__ = hook.__qualname__ = getattr(callback, "__qualname__", repr(callback))
        return hook
