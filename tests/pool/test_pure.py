"""ConnectionPool where there is no fork: the same tests, in an interpreter that has lost os.fork before it imports.

Left out: programs of their own, and exceptions and finalisers in the middle of a step, which only the compiled core
does without a lock.
"""

from __future__ import annotations

import pytest
from conftest import python, succeeds

LEFT_OUT = "not storm_of_exceptions and not finaliser and not interpreter and not exit"
PROGRAM = f"""
import os, sys
for name in ("fork", "forkpty", "register_at_fork"):
    delattr(os, name)
import pytest
import forksafe_core
assert forksafe_core.IMPL == "pure"
options = ["-q", "-p", "no:cacheprovider", "--noconftest", "-k", {LEFT_OUT!r}, "--tb=short"]
sys.exit(pytest.main([*options, *sys.argv[1:]]))
"""


@pytest.mark.parametrize("name", ["test_pool.py", "test_pool_waiting.py", "test_pool_sizes.py"])
def test_the_pure_core(name, request):
    said = succeeds(python("-c", PROGRAM, str(request.path.with_name(name)), timeout=100))
    assert " passed" in said and "failed" not in said
