"""The rules of the source that no linter checks. Directions of imports are in pyproject.toml, for `lint-imports`."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import forksafe

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
TESTS = ROOT / "tests"
SOURCES = (".py", ".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h")
PUZZLING = re.compile(r"\b(who|whom|whose|nobody|meanwhile|in vain)\b", re.IGNORECASE)
SHARED_BY_ADAPTERS = {"helpers", "registry"}

pytestmark = pytest.mark.skipif(not (SOURCE / "forksafe").is_dir(), reason="the sources are not beside the tests")


def files(*folders: Path, suffixes: tuple[str, ...] = (".py",)) -> list[Path]:
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def modules() -> Iterator[tuple[Path, str, ast.Module]]:
    """Each module of forksafe: its file, its package within forksafe ("" for the top's), its syntax tree."""
    for path in files(SOURCE / "forksafe"):
        parts = path.relative_to(SOURCE / "forksafe").parts
        yield path, parts[0] if len(parts) > 1 else "", ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Module, name, and the name it is bound to, of each `from forksafe... import`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "forksafe":
            for each in node.names:
                yield node.module, each.name, each.asname or each.name


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def test_no_private_imports():
    """No package uses a name of another one that begins with an underscore."""
    found = []
    for path, package, tree in modules():
        others = {bound: name for module, name, bound in imports(tree) if [*module.split("."), ""][1] != package}
        found += [f"{path}: {name}" for name in others.values() if is_private(name)]
        reads = [each for each in ast.walk(tree) if isinstance(each, ast.Attribute) and is_private(each.attr)]
        for node in reads:
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if others.get(owner, "").islower():  # a module's, not a class's own
                found.append(f"{path}:{node.lineno}: {owner}.{node.attr}")
    assert found == []


def test_no_peeks():
    """No module is looked up in sys.modules by forksafe's name."""
    peek = re.compile(r"sys\.modules\S*[\[(]\s*[\"']forksafe")
    assert [str(path) for path in files(SOURCE) if peek.search(path.read_text(encoding="utf-8"))] == []


def test_adapters_independent():
    """An adapter imports no other: protect() imports the one that a type needs."""
    found = []
    for path, package, tree in modules():
        if package == "adapters" and path.stem not in SHARED_BY_ADAPTERS | {"protect"}:
            for module, name, _ in imports(tree):
                used = name if module == "forksafe.adapters" else module.removeprefix("forksafe.adapters.")
                if module.startswith("forksafe.adapters") and used not in SHARED_BY_ADAPTERS:
                    found.append(f"{path}: {used}")
    assert found == []


PACKAGES = [path for path in files(SOURCE) if path.name == "__init__.py" and path.parents[1] != SOURCE]


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.parent.name)
def test_package_docstring(path):
    """A package says in a few lines what belongs there, and imports nothing but its own names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstring = ast.get_docstring(tree)
    assert docstring
    assert len(docstring.splitlines()) <= 12
    package = ".".join(path.parent.relative_to(SOURCE).parts)
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} - {"__future__"}
    assert all(name.startswith(package) for name in imported)


def test_package_names():
    """To import a subpackage with a public function's name would replace the function."""
    folders = {path.parent.name for path in PACKAGES}
    assert folders.isdisjoint(set(forksafe.__all__) - {"testing"})


def test_file_lengths():
    folders = SOURCE, TESTS, ROOT / "benchmarks"
    lengths = {path: len(path.read_bytes().splitlines()) for path in files(*folders, suffixes=SOURCES)}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}


def test_plain_words():
    """Who is for people: a thread, a lock and a process is "it"."""
    paths = [*files(SOURCE, suffixes=SOURCES), *files(ROOT / "docs", suffixes=(".md",)), ROOT / "README.md"]
    lines = [(path, line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    found = [f"{path}: {line.strip()}" for path, line in lines for _ in PUZZLING.findall(line)]
    assert len(found) <= len(lines) * 2 / 1000, "\n".join(found)


def test_test_names():
    """A name says the unit and the condition; the story is in the docstring."""
    pattern = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)
    names = [name for path in files(TESTS) for name in pattern.findall(path.read_text(encoding="utf-8"))]
    assert [name for name in names if len(name) > 60] == []
    assert sum(map(len, names)) / len(names) <= 30


def test_completion():
    """Completion shows the public names, whatever was imported."""
    assert "forksafe.locks" in sys.modules
    assert [name for name in dir(forksafe) if not name.startswith("__")] == sorted(forksafe.__all__)
    assert {"__version__", "__doc__", "__path__"} <= set(dir(forksafe))
