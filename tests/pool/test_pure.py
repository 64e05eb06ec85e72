"""ConnectionPool where there is no fork: the same tests, in an interpreter that has lost os.fork before it imports.

They run the source of the compiled Slots and PoolCore as it is. Left out: programs of their own, and exceptions and
finalisers in the middle of a step, which only the compiled core excludes.
"""

from __future__ import annotations

import pytest

from support.programs import path_with_tests, python, succeeds

LEFT_OUT = "not storm_of_exceptions and not finaliser and not interpreter and not exit"
# Without any conftest.py, as the one at the top has the tests of a platform without fork left out; the fixtures of
# this folder are needed all the same.
PROGRAM = f"""
import os, sys
for name in ("fork", "forkpty", "register_at_fork"):
    delattr(os, name)
import pytest
import forksafe_core
assert forksafe_core.IMPL == "pure"
assert forksafe_core.Slots.__module__ == "forksafe_core.pure.slots"
assert "cython" not in sys.modules  # also where it is installed: its critical_section() takes no lock
options = ["-q", "-m", "", "-k", {LEFT_OUT!r}, "-p", "no:cacheprovider", "--noconftest", "-p", "pool.conftest"]
sys.exit(pytest.main([*options, "--tb=short", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("name", ["test_pool.py", "test_queue.py", "test_maintenance.py"])
def test_the_pure_core(name, request):
    said = succeeds(python("-c", PROGRAM, str(request.path.with_name(name)), timeout=100, env=path_with_tests()))
    assert " passed" in said and "failed" not in said
