"""help() and editors show what each public callable takes, the compiled ones too."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import forksafe


def callables() -> dict[str, Any]:
    """Everything in forksafe.__all__ that can be called, and the public methods of its classes."""
    found: dict[str, Any] = {}
    for name in forksafe.__all__:
        value = getattr(forksafe, name)
        if not callable(value) or _inherits_all(value):
            continue
        found[name] = value
        for method in dir(value) if inspect.isclass(value) else ():
            public = not method.startswith("_") or method in ("__call__", "__enter__", "__exit__")
            if public and callable(getattr(value, method)) and not hasattr(RuntimeError, method):
                found[f"{name}.{method}"] = getattr(value, method)
    return found


def _inherits_all(value: Any) -> bool:
    """An exception that takes what the standard ones take: those have no signature either."""
    return inspect.isclass(value) and issubclass(value, BaseException) and "__init__" not in vars(value)


@pytest.mark.parametrize("name", callables())
def test_has_signature(name):
    assert inspect.signature(callables()[name]) is not None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Lock", "(*, on_orphan=None, hold=False, hold_timeout=5.0)"),
        ("RLock", "(*, on_orphan=None, hold=False, hold_timeout=5.0)"),
        ("Lock.acquire", "(self, /, blocking=True, timeout=-1)"),
        ("Lock.__exit__", "(self, exc_type=None, exc_value=None, traceback=None, /)"),
        ("Semaphore", "(value=1, *, at_fork='keep')"),
        ("BoundedSemaphore", "(value=1)"),
        ("local", "(*args, **kwargs)"),
        ("PerProcess", "(make, /)"),
        ("PerProcess.__call__", "(self, /)"),
        ("Future", "()"),
        ("Future.result", "(self, /, timeout=None)"),
        ("Future.add_done_callback", "(self, /, fn)"),
        ("ConnectionPool.getconn", "(self, /, timeout=None)"),
    ],
)
def test_signature_of_compiled(name, expected):
    value: Any = forksafe
    for part in name.split("."):
        value = getattr(value, part)
    assert str(inspect.signature(value)) == expected
