"""PerProcess where there is no fork: a value made at first use, one maker at a time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import GenericAlias
from typing import Any, final

__all__ = ["PerProcess"]


@final
class PerProcess:
    """A value made at first use: call it for the value, which make() makes, called by one thread at a time."""

    __class_getitem__: Any = classmethod(GenericAlias)

    def __init__(self, make: Callable[[], Any], /) -> None:
        if not callable(make):
            raise TypeError(
                f"PerProcess(make) takes a callable without arguments, not {type(make).__name__!r}: "
                "pass the function that makes the value, not the value"
            )
        self.__module__ = getattr(make, "__module__", "")  # where pickle looks for one that has its maker's name
        self.made = False
        self._make = make
        self._value: Any = None
        self._lock = threading.RLock()
        self._making = False

    def __call__(self) -> Any:
        """The value; the first call makes it. RuntimeError when the maker asks for its own value."""
        if not self.made:
            with self._lock:
                if not self.made:
                    self._fill()
        return self._value

    def peek(self) -> Any:
        """The value if it has been made, else None."""
        return self._value

    def _fill(self) -> None:
        if self._making:
            raise RuntimeError(
                f"{self._name()} asks for the value of the PerProcess that is calling it: make that value without it"
            )
        self._making = True
        try:
            self._value = self._make()
        finally:
            self._making = False
        self.made = True

    def _name(self) -> str:
        return getattr(self._make, "__qualname__", None) or repr(self._make)

    def __repr__(self) -> str:
        return f"<forksafe.PerProcess of {self._name()}, {'made' if self.made else 'not made'}>"

    def __reduce__(self) -> Any:
        found: Any = sys.modules.get(getattr(self._make, "__module__", ""))
        for part in self._name().split("."):
            found = getattr(found, part, None)
        return self._name() if found is self else (PerProcess, (self._make,))
