"""What type checkers see: the sources, the stubs of the compiled core, right and wrong use of both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="mypy is not installed")

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent / "typing"
SOURCES = ROOT / "src"
VERSIONS = ["3.10", "3.13", "3.14"]


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Runs mypy, or a module of it, and gives its report: empty when it has nothing to say."""
    if not SOURCES.is_dir():
        pytest.skip("the sources are not here")
    cache = tmp_path_factory.mktemp("mypy_cache")
    environment = {**os.environ, "MYPYPATH": str(SOURCES), "PYTHONPATH": str(SOURCES), "MYPY_CACHE_DIR": str(cache)}

    def run(*arguments: object, module: str = "mypy") -> str:
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
        assert "Traceback" not in done.stderr, done.stderr
        return "" if done.returncode == 0 else f"{done.stdout}{done.stderr}"

    return run


def test_sources(mypy):
    """As pyproject.toml has it: strict, for the oldest Python."""
    assert mypy() == ""


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("version", VERSIONS)
def test_sources_elsewhere(mypy, version, platform):
    assert mypy("--python-version", version, "--platform", platform) == ""


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["usage.py", "misuse.py"])
def test_programs_that_use_forksafe(mypy, name, version, platform):
    """With strict checking an ignored line that is right after all is an error, so misuse.py is found line by line."""
    only_this = ["--follow-imports=silent", "--strict"]
    assert mypy(*only_this, "--python-version", version, "--platform", platform, HERE / name) == ""


def test_control_wrong_use_is_found(mypy, tmp_path):
    """Without its ignores every marked line of misuse.py is reported."""
    text = (HERE / "misuse.py").read_text()
    lines = [line.partition("  # type: ignore")[0] for line in text.splitlines()]
    marked = {number for number, line in enumerate(text.splitlines(), 1) if "  # type: ignore" in line}
    program = tmp_path / "misuse.py"
    program.write_text("\n".join(lines))
    report = mypy("--follow-imports=silent", "--strict", program)
    found = {int(line.split(":")[1]) for line in report.splitlines() if ": error: " in line}
    assert found == marked
    assert len(marked) > 50


def test_stubs_say_what_is_there(mypy, tmp_path):
    """The stubs of the compiled modules, and the sources' own annotations, against the modules themselves."""
    configuration = tmp_path / "mypy.ini"
    configuration.write_text("[mypy]\nexclude = src/forksafe/cli/bootstrap/\n")
    allowed = ["--allowlist", HERE / "stubtest_allowlist.txt", "--mypy-config-file", configuration]
    assert mypy("forksafe_core", "forksafe", *allowed, "--concise", module="mypy.stubtest") == ""


def test_type_markers_installed():
    """The markers for type checkers are there."""
    for package in ("forksafe", "forksafe_core"):
        assert (SOURCES / package / "py.typed").is_file()
    compiled = {path.stem for path in (SOURCES / "forksafe_core").glob("*.pyx")} | {"_slots", "_checkout"}  # from pure/
    assert compiled == {path.stem for path in (SOURCES / "forksafe_core").glob("*.pyi")}
