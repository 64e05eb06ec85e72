"""Checks what is in the sdist and the wheel: python .ci/check_dists.py dist/*"""

from __future__ import annotations

import sys
import tarfile
import zipfile


def names_of(path: str) -> set[str]:
    if path.endswith(".whl"):
        with zipfile.ZipFile(path) as wheel:
            return set(wheel.namelist())
    with tarfile.open(path) as sdist:
        return {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}


def problems(path: str) -> list[str]:
    names = names_of(path)
    modules = ("_atfork", "_checkout", "_futures", "_local", "_locks", "_per_process", "_semaphores", "_slots")
    if path.endswith(".whl"):
        needed = {"forksafe/py.typed", "forksafe_core/py.typed", "forksafe/cli/bootstrap/sitecustomize.py"}
        needed |= {f"forksafe_core/{name}.pyi" for name in modules} | {
            "forksafe_core/_locks.pxd",
            "forksafe_core/pure/slots.py",
            "forksafe/examples/cache.py",
        }
        compiled = [name for name in names if name.endswith(".so")]
        found = [] if len(compiled) == len(modules) else [f"{len(compiled)} compiled modules: {compiled}"]
        unwanted = (".c", ".h", ".pyx", "tests/")
    else:
        needed = {
            "src/forksafe_core/native/fork_state.c",
            "src/forksafe_core/native/fork_state.h",
            "tests/conftest.py",
            "pyproject.toml",
        }
        pure = {"_checkout", "_slots"}
        needed |= {f"src/forksafe_core/{name}.pyx" for name in set(modules) - pure} | {
            *(f"src/forksafe_core/pure/{name[1:]}.py" for name in pure),
            "benchmarks/__main__.py",
            "examples/cache.py",
        }
        needed |= {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "setup.py", "docs/conf.py"}
        found = []
        unwanted = (".so", ".pyc", "build/")
    found += [f"missing: {name}" for name in sorted(needed - names)]
    found += [
        f"does not belong: {name}" for name in sorted(names) if name.endswith(unwanted) or name.startswith(unwanted)
    ]
    return [f"{path}: {problem}" for problem in found]


if __name__ == "__main__":
    everything = [problem for path in sys.argv[1:] for problem in problems(path)]
    print("\n".join(everything) or f"{len(sys.argv) - 1} distributions have what they should")
    sys.exit(bool(everything))
