"""The checks of arguments that several parts of forksafe take."""

from __future__ import annotations

import math

import pytest

from forksafe.arguments import check_bool, check_callable, check_choice, seconds, seconds_or_none


@pytest.mark.parametrize(("value", "options"), [
    (0, {}), (1.5, {}), (3, {"above_zero": True}), (math.inf, {"infinite": True}), (0, {"infinite": True}),
])  # fmt: skip
def test_seconds(value, options):
    result = seconds(value, "f(x)", **options)
    assert result == value and isinstance(result, float)


@pytest.mark.parametrize("value", [True, "1", None, 1j])
def test_seconds_not_a_number(value):
    with pytest.raises(TypeError, match=r"^f\(x\) takes a number of seconds from 0 up, not "):
        seconds(value, "f(x)")


@pytest.mark.parametrize(("value", "options", "takes"), [
    (-1, {}, "from 0 up"), (math.nan, {}, "from 0 up"), (math.inf, {}, "from 0 up"), (10**400, {}, "from 0 up"),
    (math.nan, {"infinite": True}, "from 0 up, or math.inf for no limit"), (0, {"above_zero": True}, "above 0"),
])  # fmt: skip
def test_seconds_out_of_range(value, options, takes):
    with pytest.raises(ValueError, match=rf"^f\(x\) takes a number of seconds {takes}, not {value}$"):
        seconds(value, "f(x)", **options)


def test_seconds_or_none():
    assert seconds_or_none(None, "f(x)") is None and seconds_or_none(2, "f(x)") == 2.0
    with pytest.raises(ValueError, match="above 0"):
        seconds_or_none(0, "f(x)", above_zero=True)


def test_checks():
    check_callable(print, "f(x)")
    check_bool(False, "f(x)")
    check_choice("a", "f(x)", ("a", "b"))
    with pytest.raises(TypeError, match=r"^f\(x\) takes a callable, not 3$"):
        check_callable(3, "f(x)")
    with pytest.raises(TypeError, match=r"^f\(x\) takes True or False, not 1$"):
        check_bool(1, "f(x)")
    with pytest.raises(ValueError, match=r'^f\(x\) takes "a", "b" or "c", not \'d\'$'):
        check_choice("d", "f(x)", ("a", "b", "c"))
