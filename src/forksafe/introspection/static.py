"""Looks at objects without running any of their code: proxies, properties and overridden methods are not called.

A lazy proxy makes its object when its __dict__ or __class__ is read, as isinstance() does. To do so it may take locks,
or wait for another thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import GetSetDescriptorType, MemberDescriptorType
from typing import Any

__all__ = ["attributes_of", "dict_of", "mro_of", "name_of", "namespace_of", "slot"]

_mro_of = type.__dict__["__mro__"].__get__
_dict_of_type = type.__dict__["__dict__"].__get__
# Compiled; a property of the program's is neither.
_DESCRIPTORS: tuple[type, ...] = (GetSetDescriptorType, MemberDescriptorType)


def mro_of(cls: type) -> tuple[type, ...]:
    mro: tuple[type, ...] = _mro_of(cls)
    return mro


def namespace_of(cls: type) -> Mapping[str, Any]:
    """What a class itself defines."""
    namespace: Mapping[str, Any] = _dict_of_type(cls)
    return namespace


def dict_of(obj: Any) -> dict[str, Any]:
    """The dictionary of an instance, module or function; an empty one if it has none, as a class."""
    for cls in mro_of(type(obj)):
        descriptor: Any = namespace_of(cls).get("__dict__")
        if type(descriptor) in _DESCRIPTORS:
            found = descriptor.__get__(obj)
            return found if isinstance(found, dict) else {}
    return {}


def attributes_of(obj: Any) -> Iterator[tuple[str, Any]]:
    """What an instance has, in its dictionary and in slots, by name."""
    yield from list(dict_of(obj).items())
    for cls in mro_of(type(obj)):
        for name, descriptor in list(namespace_of(cls).items()):
            if type(descriptor) is MemberDescriptorType:
                yield name, slot(descriptor, obj)


def slot(descriptor: Any, obj: Any) -> Any:
    """An instance's slot, None if it is empty; what is no slot's descriptor, as it is."""
    if type(descriptor) is not MemberDescriptorType:
        return descriptor
    try:
        return descriptor.__get__(obj)
    except AttributeError:
        return None


def name_of(cls: type) -> str:
    """module.Class"""
    module = namespace_of(cls).get("__module__")
    return f"{module if isinstance(module, str) else 'builtins'}.{type.__dict__['__qualname__'].__get__(cls)}"
