"""Adapters are found by type and imported at first sight."""

from __future__ import annotations

import queue
import sys
import threading

import pytest

import forksafe
from forksafe.adapters import registry
from forksafe.adapters.registry import OPEN, adapter_of
from forksafe.testing import run_in_child
from support.programs import python, succeeds

IMPORTED = "{name.rpartition('.')[2] for name in sys.modules if name.startswith('forksafe.adapters.')}"


@pytest.mark.parametrize(
    ("make", "adapters"),
    [("threading.Lock()", {"threading"}), ("forksafe.Lock()", {"forksafe"}), ("logging.Handler()", {"logging"})],
)
def test_import_at_first_sight(make, adapters):
    """A program pays for no adapter that it does not use."""
    program = f"import logging, queue, sys, threading, forksafe; obj = {make}; forksafe.protect(obj); print({IMPORTED})"
    always = {"protect", "registry", "helpers"}
    assert always | adapters <= eval(succeeds(python("-c", program))) <= always | adapters | {"threading"}


@pytest.mark.parametrize("made_first", [False, True])
def test_register_adapter_wins(made_first, busy):
    """A registration by a library's name wins over forksafe's adapter, whichever is there first."""
    program = f"""if True:
        import queue, forksafe
        from forksafe.testing import run_in_child
        if {made_first}:
            forksafe.protect(queue.Queue())
        forksafe.register_adapter("queue.Queue", reset=lambda items: items.put("reset"))
        items = forksafe.protect(queue.Queue())
        print(run_in_child(items.qsize), items.qsize())
    """
    assert succeeds(python("-c", program)) == "1 0\n"


def test_register_adapter_again(registrations):
    """What is registered last counts, also for a type that was looked up before."""

    class Thing(threading.Condition):
        pass

    assert adapter_of(Thing()) is adapter_of(threading.Condition())
    forksafe.register_adapter(Thing)
    first = adapter_of(Thing())
    forksafe.register_adapter(Thing, reset=lambda thing: thing.notes.append(1))
    assert adapter_of(Thing()) is not first
    thing = Thing()
    thing.notes = []
    forksafe.protect(thing)
    assert run_in_child(lambda: thing.notes) == [1]
    assert thing.notes == []


def test_adapter_of_base():
    """The nearest base counts; a type with a fileno() has one; others have none."""

    class Tasks(queue.PriorityQueue):
        pass

    class File:
        def fileno(self):
            return -1

    assert adapter_of(Tasks()) is adapter_of(queue.Queue())
    assert adapter_of(File()) is OPEN
    assert adapter_of(object()) is None


@pytest.mark.parametrize("module", [None, "", "..", "registry", "helpers.x", "no such package"])
def test_adapter_of_odd_module(module):
    cls = type("Odd", (), {"__module__": module})
    assert adapter_of(cls()) is None


def test_adapter_module_fails(monkeypatch, tmp_path):
    """An adapter that cannot be imported is an error, not a library without an adapter."""
    (tmp_path / "broken.py").write_text("import no_such_module_at_all")
    monkeypatch.setattr(sys.modules["forksafe.adapters"], "__path__", [str(tmp_path)])
    monkeypatch.setattr(registry, "_imported", set(registry._imported))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        adapter_of(type("Client", (), {"__module__": "broken.client"})())
