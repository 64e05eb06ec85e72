"""The subset of a matrix that runs by default."""

from itertools import combinations, product

from support.cover import covering


def test_covering_has_each_pair():
    rows = list(product("abcd", range(3), "xy", (False, True)))
    chosen = covering(rows)
    for first, second in combinations(range(4), 2):
        assert {(row[first], row[second]) for row in chosen} == {(row[first], row[second]) for row in rows}
    assert len(chosen) <= 14


def test_covering_two_factors_is_all():
    rows = list(product("ab", "xyz"))
    assert sorted(covering(rows)) == rows
