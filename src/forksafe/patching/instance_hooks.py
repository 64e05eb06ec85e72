"""Makers: a function called with every object that a class or function of some module makes, for install().

Guarantees: what exists already is given at once, what is made later as soon as it has been made, also where the module
is imported later. What the function raises is reported to sys.unraisablehook, and the program goes on. end() puts back
what was changed, unless somebody else has changed it since; then it does nothing any more.

Not covered: what C code makes without calling the class by its name in the module, or its __init__.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import operator
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from forksafe.patching import post_import as watching
from forksafe_core import atfork

__all__ = ["Kind", "Makers"]


@dataclass(frozen=True)
class Kind:
    """What to do with the things that something in a module makes.

    makes: a class or function of the module. type: what the things are, if that is not it.
    """

    module: str
    makes: str
    then: Callable[[Any], object]
    type: str = ""

    def __str__(self) -> str:
        return f"{self.module}.{self.makes}"


class Makers:
    """The makers of some kinds of things, watched from begin() to end()."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.kinds = tuple(kinds)
        self._on = False
        self._changed: list[tuple[Any, str, Any, Any]] = []  # owner, name, what was there, ours
        self._waiting: list[Callable[[ModuleType], object]] = []

    def begin(self) -> None:
        """From now on, and for what exists. Once is enough, more does nothing."""
        if self._on:
            return
        self._on = True
        there = [(kind, sys.modules[kind.module]) for kind in self.kinds if kind.module in sys.modules]
        for kind in self.kinds:
            self._waiting.append(functools.partial(self._change, kind))
            watching.when_imported(kind.module, self._waiting[-1])
        self._take_care_of_existing(there)

    def end(self) -> None:
        """No more, from now on."""
        self._on = False
        watching.forget(self._waiting)
        self._waiting.clear()
        for owner, name, before, ours in reversed(self._changed):
            if vars(owner).get(name) is not ours:
                continue
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        self._changed.clear()

    def _change(self, kind: Kind, module: ModuleType) -> None:
        """Have kind.then(made) called with everything that this class or function of the module makes."""
        makes = getattr(module, kind.makes)
        owner, name = (makes, "__init__") if isinstance(makes, type) else (module, kind.makes)
        make = getattr(owner, name)
        if any(make is ours for _, _, _, ours in self._changed):
            return

        @functools.wraps(make)
        def ours(*args: Any, **kwargs: Any) -> Any:
            made = make(*args, **kwargs)
            if self._on:
                _quietly(kind.then, made if made is not None else args[0])
            return made

        self._changed.append((owner, name, vars(owner).get(name), ours))
        setattr(owner, name, ours)

    def _take_care_of_existing(self, there: list[tuple[Kind, ModuleType]]) -> None:
        types = {}
        for kind, module in there:
            with contextlib.suppress(AttributeError):  # it is half imported, or something else of that name
                types[operator.attrgetter(kind.type or kind.makes)(module)] = kind
        for obj in gc.get_objects() if types else ():
            for cls in type(obj).__mro__:  # isinstance() would ask the object
                if cls in types:
                    _quietly(types[cls].then, obj)
                    break


def _quietly(then: Callable[[Any], object], made: Any) -> None:
    try:
        then(made)
    except Exception as error:  # the program goes on as without us
        atfork.write_unraisable(error, then)
