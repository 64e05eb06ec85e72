"""How the tests check what find() says."""

from __future__ import annotations

from forksafe.descriptors.search import find, flag
from forksafe.testing import run_in_child
from forksafe_core import atfork


def descriptors(value):
    found = find(value)
    assert not found.opaque and not found.unknown and not found.cut_short, found
    return set(found.descriptors)


def dies_in_a_child(value, use):
    """Flag the value; then whatever a child does with it ends in an error, and the parent's still works."""
    flagged = flag(value)

    def child():
        assert not any(atfork.is_flagged(each) for each in flagged.descriptors)
        try:
            use()
        except Exception as error:
            return type(error).__name__
        return "it can be used"

    assert run_in_child(child, 20) != "it can be used"
    use()
