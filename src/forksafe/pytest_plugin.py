"""A plugin for pytest: tests that fork under hazards are reported or fail; and run_in_child, as a fixture.

Guarantees: without --forksafe nothing is looked at. With it a guard() is on while tests and their fixtures run.

pytest --forksafe=warn   a ForkHazardWarning for each such fork, in pytest's summary of warnings
pytest --forksafe=error  the fork is refused with ForkHazardError, so that the test fails where it forks
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import pytest

__all__: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("forksafe")
    group.addoption(
        "--forksafe",
        choices=("warn", "error"),
        help="report tests that fork while something is alive that breaks in the child, or fail them",
    )
    parser.addini("forksafe_ignore", "modules that --forksafe leaves out", type="args", default=[])
    parser.addini("forksafe_severity", "look at hazards from this one on: note, warning (the default) or danger",
                  default="warning")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    action = config.getoption("--forksafe")
    if not action:
        return
    severity = config.getini("forksafe_severity")
    if severity not in ("note", "warning", "danger"):
        raise pytest.UsageError(f"forksafe_severity is note, warning or danger, not {severity!r}")
    config.pluginmanager.register(_Guarding(action, severity, config.getini("forksafe_ignore")), "forksafe-guarding")


class _Guarding:
    def __init__(self, action: str, severity: Any, ignore: list[str]) -> None:
        self._action: Any = "raise" if action == "error" else "warn"
        self._severity = severity
        self._ignore = ignore

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Generator[None, Any, Any]:
        from forksafe.diagnostics.guard import guard

        with guard(self._action, severity=self._severity, ignore=self._ignore):
            return (yield)

    pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


@pytest.fixture
def run_in_child() -> Callable[..., Any]:
    """forksafe.testing.run_in_child: forks, calls a function in the child, returns its value or raises its error."""
    from forksafe.testing import run_in_child

    return run_in_child
