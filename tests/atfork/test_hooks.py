"""register_at_fork and its decorators."""

from __future__ import annotations

import gc
import sys

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.programs import python, script, succeeds


def test_hooks_order(register):
    """The order is that of os.register_at_fork."""
    log = []
    for name in "ab":
        register(
            before=lambda name=name: log.append(f"before {name}"),
            after_in_parent=lambda name=name: log.append(f"parent {name}"),
            after_in_child=lambda name=name: log.append(f"child {name}"),
        )
    assert run_in_child(lambda: log) == ["before b", "before a", "child a", "child b"]
    assert log == ["before b", "before a", "parent a", "parent b"]


def test_unregister(register):
    log = []
    registration = register(before=lambda: log.append(1))
    register(before=lambda: log.append(2))
    registration.unregister()
    registration.unregister()
    run_in_child(lambda: None)
    assert log == [2]


def test_registration_repr(register):
    def flush():
        pass

    class Client:
        def reconnect(self):
            pass

    client = Client()
    registration = register(before=flush, after_in_child=client.reconnect)
    name = "test_registration_repr.<locals>"
    hooks = f"before={name}.flush, after_in_child={name}.Client.reconnect"
    assert repr(registration) == f"<forksafe.Registration {hooks}>"
    registration.unregister()
    assert repr(registration) == f"<forksafe.Registration {hooks}, unregistered>"


def test_hook_raises(register, monkeypatch):
    """The exception is reported, and the other hooks run."""
    reported, log = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append((args.exc_type, args.object)))

    def fails():
        raise ZeroDivisionError

    def interrupts():
        raise KeyboardInterrupt

    register(before=fails, after_in_parent=fails, after_in_child=fails)
    register(before=interrupts)
    register(before=lambda: log.append("before"), after_in_child=lambda: log.append("child"))
    assert run_in_child(lambda: (log, len(reported))) == (["before", "child"], 3)
    assert reported == [(KeyboardInterrupt, interrupts), (ZeroDivisionError, fails), (ZeroDivisionError, fails)]


def test_bound_method_at_exit(tmp_path):
    """Nothing is printed. No proof of the guard in hooks.py: when names are taken away is up to the interpreter."""
    program = script(
        tmp_path / "program.py",
        """
        import forksafe, sys
        class Client:
            def forked(self): pass
        client = Client()
        registration = forksafe.register_at_fork(after_in_child=client.forked)
        sys.modules["zzz"] = client, registration
        import builtins
        builtins.client = client
        """,
    )
    result = python(program)
    succeeds(result)
    assert result.stderr == ""


def test_bound_methods_are_held_weakly():
    log = []

    class Client:
        def reconnect(self):
            log.append(1)

    client = Client()
    forksafe.register_at_fork(before=client.reconnect)
    run_in_child(lambda: None)
    assert log == [1]
    from forksafe.atfork import hooks

    registered = len(hooks._registrations)
    del client
    gc.collect()
    run_in_child(lambda: None)
    assert log == [1]
    assert len(hooks._registrations) == registered - 1


def test_functions_are_held_strongly(register):
    log = []
    register(before=lambda: log.append(1))
    gc.collect()
    run_in_child(lambda: None)
    assert log == [1]


def test_decorators(tmp_path):
    program = script(
        tmp_path / "program.py",
        """
        import os, forksafe
        log = []
        @forksafe.before
        def b(): log.append("before")
        @forksafe.after_in_parent
        def p(): log.append("parent")
        @forksafe.after_in_child
        def c(): log.append("child")
        assert callable(b) and callable(p) and callable(c)
        pid = os.fork()
        if pid == 0:
            os._exit(0 if log == ["before", "child"] else 1)
        assert os.waitpid(pid, 0)[1] == 0 and log == ["before", "parent"], log
    """,
    )
    succeeds(python(program))


@pytest.mark.parametrize(
    ("hooks", "message"), [({}, "at least one"), ({"before": 3}, r"before=\.\.\.\) takes a callable, not 'int'")]
)
def test_bad_input(hooks, message):
    with pytest.raises(TypeError, match=message):
        forksafe.register_at_fork(**hooks)


def test_nothing_is_half_registered():
    from forksafe.atfork import hooks

    before = hooks._registrations
    with pytest.raises(TypeError):
        forksafe.register_at_fork(before=lambda: None, after_in_child=3)
    assert hooks._registrations == before
