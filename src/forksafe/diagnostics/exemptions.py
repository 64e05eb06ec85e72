"""What is no hazard, for forksafe takes care of it: its own types, what protect() was given, what install() cures.

Guarantees: nothing is imported to find out, and no code of the program's is run.
"""

from __future__ import annotations

import sys
from typing import Any

from forksafe.introspection.static import mro_of, namespace_of

__all__ = ["is_installed", "is_taken_care_of"]


def is_taken_care_of(obj: Any) -> bool:
    """Is it of a type of forksafe's own, or protected?"""
    if any(namespace_of(cls).get("__module__") == "forksafe" for cls in mro_of(type(obj))):
        return True
    protecting = sys.modules.get("forksafe.adapters.protect")
    protection = getattr(protecting, "_protected", {}).get(id(obj))
    return protection is not None and protection.reference() is obj


def is_installed() -> bool:
    """Is install() in force, which cures half-made imports and the standard streams in children?"""
    return getattr(sys.modules.get("forksafe.patching.install"), "_installed", None) is not None
