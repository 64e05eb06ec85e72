"""guard(): forks under hazards are reported or refused, and nothing else is."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import warnings

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.programs import python, succeeds


class Account:
    def __init__(self):
        self.lock = threading.Lock()


@pytest.fixture
def held(busy):
    """A lock that another thread holds."""
    account = Account()
    inside = busy(account.lock.acquire, account.lock.release)
    yield account
    inside.end()


def lines(message):
    return str(message).splitlines()


def test_warn(held):
    with warnings.catch_warnings(record=True) as caught, forksafe.guard("warn", kinds=["lock"], modules=[__name__]):
        warnings.simplefilter("always", forksafe.ForkHazardWarning)
        assert run_in_child(lambda: 3) == 3
    (warning,) = [each for each in caught if each.category is forksafe.ForkHazardWarning]
    first, second = lines(warning.message)
    assert first.startswith("this fork at ")
    assert first.endswith("would break 1 thing:")
    assert second.startswith(f"  danger: lock: threading.Lock {__name__}.Account.lock, held")


def test_guard_raise(held):
    """The fork is refused before anything of it has run."""
    ran = []
    registration = forksafe.register_at_fork(before=lambda: ran.append("before"))
    try:
        with forksafe.guard("raise", kinds=["lock"], modules=[__name__]) as guard:
            with pytest.raises(forksafe.ForkHazardError, match=r"Account\.lock") as caught:
                os.fork()
            (hazard,) = caught.value.hazards
            assert hazard.kind == "lock"
            with pytest.raises(forksafe.ForkHazardError):
                multiprocessing.get_context("fork").Process(target=print).start()
            assert ran == []
            guard.off()
            guard.off()
            assert run_in_child(lambda: 3) == 3
            assert ran == ["before"]
    finally:
        registration.unregister()


def test_control_without_a_guard_it_forks(held):
    assert run_in_child(lambda: 3) == 3


def test_log(held, caplog):
    with caplog.at_level(logging.WARNING, "forksafe"), forksafe.guard("log", kinds=["lock"], modules=[__name__]):
        assert run_in_child(lambda: 3) == 3
    (record,) = [each for each in caplog.records if each.name == "forksafe"]
    assert "Account.lock" in record.getMessage()


def test_filters(held):
    for filters, raises in [
        ({"modules": [__name__]}, True),
        ({"modules": ["another"]}, False),
        ({"ignore": [__name__]}, False),
        ({"ignore": [f"{__name__}.Account"]}, False),
        ({"ignore": [__name__[:-1]]}, True),
        ({"severity": "danger"}, True),
        ({"kinds": ["connection"]}, False),
    ]:
        with forksafe.guard("raise", **{"kinds": ["lock"], "modules": [__name__], **filters}):
            if raises:
                with pytest.raises(forksafe.ForkHazardError):
                    os.fork()
            else:
                assert run_in_child(lambda: 3) == 3, filters


def test_notes_only_if_asked_for(busy):
    inside = busy(lambda: None)
    inside.thread.name = "of the test"
    with forksafe.guard("raise", kinds=["thread"], severity="note"), pytest.raises(forksafe.ForkHazardError):
        os.fork()
    inside.end()


def test_nothing_without_hazards():
    succeeds(python("-W", "error", "-c", """if True:
        import forksafe, os
        with forksafe.guard("raise", severity="note"):
            pid = os.fork()
            if pid == 0:
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    """, close_fds=True))  # fmt: skip


def test_several_and_in_children(held):
    with forksafe.guard("raise", kinds=["connection"]), forksafe.guard("raise", kinds=["lock"]) as guard:
        with pytest.raises(forksafe.ForkHazardError):
            os.fork()
        guard.off()

        def child():
            forksafe.guard("raise", kinds=["thread"])
            go = threading.Event()
            thread = threading.Thread(target=go.wait)
            thread.start()
            try:
                os.fork()
            except forksafe.ForkHazardError as error:
                return [hazard.kind for hazard in error.hazards]
            finally:
                go.set()
            return []

        assert run_in_child(child) == ["thread"]


def test_guard_internal_error(monkeypatch, held, capfd):
    """It is one line, and the fork goes on."""
    from forksafe.diagnostics.detectors import locks

    def fail():
        raise ValueError("of\nthe test")

    monkeypatch.setattr(locks, "FINDERS", {fail: ("lock",)})
    with forksafe.guard("raise", kinds=["lock"]):
        assert run_in_child(lambda: 3) == 3
    expected = f"forksafe: hazards() of process {os.getpid()} failed: ValueError: of the test\n"
    assert capfd.readouterr().err == expected


def test_bad_arguments():
    for wrong, message in [
        ({"action": "veto"}, r'guard\(action\) takes "warn", "raise" or "log", not \'veto\''),
        ({"severity": "bad"}, r"guard\(severity\) takes"),
        ({"kinds": ["locks"]}, r"guard\(kinds\) takes some of"),
    ]:
        with pytest.raises(ValueError, match=message):
            forksafe.guard(**wrong)
    with pytest.raises(TypeError, match=r"takes a list of names, not the string 'os'"):
        forksafe.guard(modules="os")
    with pytest.raises(TypeError, match=r"takes names of modules, not 3"):
        forksafe.guard(ignore=[3])


def test_an_audit_hook_that_forbids_others():
    result = python("-c", """if True:
        import sys
        def forbid(event, args):
            if event == "sys.addaudithook":
                raise RuntimeError
        sys.addaudithook(forbid)
        import forksafe
        forksafe.guard()
    """)  # fmt: skip
    assert result.returncode == 1
    assert "guard(): an audit hook of this program forbids to add another" in result.stderr


def test_attributes():
    """Completion shows what is public."""
    guard = forksafe.guard()
    guard.off()
    assert [name for name in dir(guard) if not name.startswith("__")] == [
        "action", "ignore", "kinds", "modules", "off", "severity"
    ]  # fmt: skip
