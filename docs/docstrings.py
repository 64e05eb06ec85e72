"""A Sphinx extension: docstrings of forksafe as reStructuredText, and the signatures of its compiled types.

forksafe's docstrings are plain text, for help() and for editors: paragraphs, indented examples, `code` in backticks,
and arguments as "name: what it is for". Here they become reStructuredText, in which an asterisk is an asterisk.
Signatures of compiled types are read from the stubs beside the sources.
"""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forksafe_core

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Made by the functions and methods of forksafe, never by their users.
NOT_CALLED = {"forksafe.Guard", "forksafe.Registration", "forksafe.Resource"}
STUBS = Path(forksafe_core.__file__).parent


@cache
def stub_signatures() -> dict[str, str]:
    """Of each function and method in the core's stubs, by "name" or "Class.name"."""
    found: dict[str, str] = {}
    for stub in sorted(STUBS.glob("*.pyi")):
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = signature_of(node)
            elif isinstance(node, ast.ClassDef):
                found |= {
                    f"{node.name}.{each.name}": signature_of(each, method=True)
                    for each in node.body
                    if isinstance(each, ast.FunctionDef)
                }
    return found


def signature_of(node: ast.FunctionDef, method: bool = False) -> str:
    static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in node.decorator_list)
    arguments = node.args
    if method and not static:
        (arguments.posonlyargs or arguments.args).pop(0)
    text = ast.unparse(arguments).removeprefix("/, ").removeprefix("/")
    return f"({text})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def process_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    if name in NOT_CALLED:
        return "", None
    if what == "method":
        owner = getattr(getattr(obj, "__objclass__", None), "__name__", "")
        found = stub_signatures().get(f"{owner}.{name.rpartition('.')[2]}")
        if found is not None:
            arguments, _, result = found.partition(") -> ")
            return f"{arguments.removesuffix(')')})", result or None
    return None


def parameters_of(obj: Any) -> set[str]:
    try:
        return set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):  # exceptions without an __init__ of their own
        return set()


def process_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    names = parameters_of(obj)
    if what == "class":
        names |= set(getattr(obj, "__annotations__", ()))
    lines[:] = as_rest(lines, names)


def as_rest(lines: list[str], names: set[str]) -> list[str]:
    made: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not literal:
            made += ["::", ""] if not made or made[-1] == "" else ["", "::", ""]
        literal = (indented or not line.strip()) and (literal or indented)
        made.append(line if literal else marked(line, names))
    return [*made, ""]


def marked(line: str, names: set[str]) -> str:
    """Code in backticks as it is, asterisks and the like escaped, arguments in bold where they are explained."""
    parts = re.split(r"`([^`]+)`", line)
    for at, part in enumerate(parts):
        if at % 2:
            parts[at] = f"``{part}``"
            continue
        text = re.sub(r"([\\*|]|_\b)", r"\\\1", part)
        parts[at] = re.sub(r"(^|[.;] )(\w+):(?= |$)", lambda m: f"{m[1]}**{m[2]}**:" if m[2] in names else m[0], text)
    return "".join(parts)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-signature", process_signature)
    app.connect("autodoc-process-docstring", process_docstring)
    return {"parallel_read_safe": True}
