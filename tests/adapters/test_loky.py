"""joblib.Parallel, over loky's processes, in the child of a process that has used it."""

from __future__ import annotations

import pytest

from support.programs import python, script, succeeds

pytest.importorskip("joblib")

PROGRAM = """
import faulthandler, os, sys, joblib

def squares():
    return joblib.Parallel(n_jobs=2)(joblib.delayed(pow)(n, 2) for n in range(5))

def main():
    assert squares() == [0, 1, 4, 9, 16]
    {before}
    pid = os.fork()
    if pid == 0:
        faulthandler.dump_traceback_later({limit}, exit=True)
        sys.exit(7 if squares() == [0, 1, 4, 9, 16] else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    assert squares() == [0, 1, 4, 9, 16]

if __name__ == "__main__":
    main()
"""
PROTECT = """
    import forksafe
    from joblib.externals.loky import reusable_executor
    forksafe.protect(reusable_executor._executor)
"""


def test_under_forksafe_run(tmp_path):
    path = script(tmp_path / "program.py", PROGRAM.format(before="", limit=50))
    result = python("-W", "ignore", "-m", "forksafe", "run", path, timeout=60)
    assert succeeds(result) == "7\n"
    assert "can only join a child process" not in result.stderr


def test_protected(tmp_path):
    path = script(tmp_path / "program.py", PROGRAM.format(before=PROTECT, limit=50))
    assert succeeds(python("-W", "ignore", path, timeout=60)) == "7\n"


def test_control(tmp_path):
    path = script(tmp_path / "program.py", PROGRAM.format(before="", limit=3))
    result = python("-W", "ignore", path, timeout=60)
    assert succeeds(result) == "1\n"
    assert "_retrieve" in result.stderr, "it hangs where it waits for a result"
