"""InstanceHooks: callbacks that get each object which a class or function of some module makes.

Guarantees: what exists already is passed on at once, what is made later as soon as it has been made, also where the
module is imported later. What a callback raises is reported to sys.unraisablehook, and the program goes on.
uninstall() puts back what was replaced, unless other code has replaced it since; then the callback is not called.

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

from forksafe.patching import post_import

__all__ = ["Hook", "InstanceHooks"]


@dataclass(frozen=True)
class Hook:
    """Call callback(obj) with each object that a class or function of a module makes.

    factory: the name of the class or function. type: the name of the objects' class, if it is another.
    """

    module: str
    factory: str
    callback: Callable[[Any], object]
    type: str = ""

    def __str__(self) -> str:
        return f"{self.module}.{self.factory}"


class InstanceHooks:
    """Some hooks, in force from install() to uninstall()."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self.hooks = tuple(hooks)
        self._on = False
        self._replaced: list[tuple[Any, str, Any, Any]] = []  # owner, name, what was there, ours
        self._post_import: list[Callable[[ModuleType], object]] = []

    def install(self) -> None:
        """From now on, and for what exists. A second call does nothing."""
        if self._on:
            return
        self._on = True
        imported = [(hook, sys.modules[hook.module]) for hook in self.hooks if hook.module in sys.modules]
        for hook in self.hooks:
            self._post_import.append(functools.partial(self._replace, hook))
            post_import.register(hook.module, self._post_import[-1])
        self._call_for_existing(imported)

    def uninstall(self) -> None:
        self._on = False
        post_import.unregister(self._post_import)
        self._post_import.clear()
        for owner, name, before, ours in reversed(self._replaced):
            if vars(owner).get(name) is not ours:
                continue
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)
        self._replaced.clear()

    def _replace(self, hook: Hook, module: ModuleType) -> None:
        factory = getattr(module, hook.factory)
        owner, name = (factory, "__init__") if isinstance(factory, type) else (module, hook.factory)
        make = getattr(owner, name)
        if any(make is ours for _, _, _, ours in self._replaced):
            return

        @functools.wraps(make)
        def ours(*args: Any, **kwargs: Any) -> Any:
            made = make(*args, **kwargs)
            if self._on:
                post_import.call(hook.callback, made if made is not None else args[0])
            return made

        self._replaced.append((owner, name, vars(owner).get(name), ours))
        setattr(owner, name, ours)

    def _call_for_existing(self, imported: list[tuple[Hook, ModuleType]]) -> None:
        hooks = {}
        for hook, module in imported:
            with contextlib.suppress(AttributeError):  # half imported, or another module of that name
                hooks[operator.attrgetter(hook.type or hook.factory)(module)] = hook
        for obj in gc.get_objects() if hooks else ():
            for cls in type(obj).__mro__:  # isinstance() would run the code of lazy proxies
                if cls in hooks:
                    post_import.call(hooks[cls].callback, obj)
                    break
