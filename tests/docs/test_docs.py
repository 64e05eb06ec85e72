"""The documentation: each snippet is run, its output is compared, and the pages build without a warning.

A snippet is a block of python or sh. It runs in a fresh interpreter or shell, in a folder with the files that the page
has shown before. Its session is killed as a whole when it has ended or its time is up. A block of text is the output of
the snippet before it: `…` stands for any text, and on a line of its own for any lines. Process ids, seconds and the
folder's name are not compared. A comment before a block may say more:

<!-- snippet: file=NAME -->       a file of this name for later commands of the page, one of which names it and runs it
<!-- snippet: needs=postgres -->  or redis: run with the server of the fixture (PGHOST and the like, or REDIS_URL)
<!-- snippet: with=MODULE -->     needs a program that may be missing: then it is only compiled
<!-- snippet: until=TEXT -->      ended by SIGTERM as soon as it has written this
<!-- snippet: hangs -->           the control: it has not ended after some seconds
<!-- snippet: status=N -->        its exit status, if that is not 0
<!-- snippet: never -->           only compiled: it would change the machine or the environment
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import forksafe
from support.documents import PATH, ROOT, Running, environment_with, write_programs
from support.programs import succeeds

DOCS = ROOT / "docs"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the pages show what Linux does"),
    pytest.mark.skipif(not DOCS.exists(), reason="the documentation is not here"),
]

LIMIT = 60.0  # seconds for a snippet
CONTROL = 3.0  # seconds after which one counts as hanging
ONLY_COMPILED = 11  # snippets that may be only compiled: a page that adds one changes this number
OPTIONS = {"file", "needs", "with", "until", "hangs", "status", "never"}
CONFIGURATIONS = {"ini", "toml"}


@dataclass
class Snippet:
    page: str
    line: int
    kind: str
    text: str
    options: dict[str, str]
    output: str | None = None
    files: dict[str, str] = field(default_factory=dict)  # those that the page has shown before

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def users(self) -> list[Snippet]:
        """The later commands and files of the page that name this file."""
        name, later = self.options["file"], SNIPPETS[SNIPPETS.index(self) + 1 :]
        words = rf"\b({re.escape(name)}|{re.escape(name.partition('.')[0])})\b"
        return [
            each
            for each in later
            if each.page == self.page and (each.kind == "sh" or "file" in each.options) and re.search(words, each.text)
        ]

    @property
    def may_be_only_compiled(self) -> bool:
        if "file" in self.options:
            return all(each.may_be_only_compiled for each in self.users())
        return "with" in self.options or "never" in self.options

    @property
    def is_there(self) -> bool:
        name = self.options.get("with", "")
        return not name or importlib.util.find_spec(name) is not None or shutil.which(name, path=PATH) is not None


_COMMENT = r"^<!-- snippet: (?P<options>[^\n]*?) -->\n+"
_BLOCK = re.compile(rf"(?:{_COMMENT})?^```(?P<kind>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets_of(page: Path) -> Iterator[Snippet]:
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(_BLOCK.findall(text)), f"{page}: odd blocks"
    assert text.count("<!-- snippet:") == sum(bool(m["options"]) for m in _BLOCK.finditer(text)), (
        f"{page}: odd comments"
    )
    files: dict[str, str] = {}
    before: Snippet | None = None
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("kind")) + 1
        words = [word.partition("=") for word in shlex.split(match["options"] or "")]
        options = {name: value for name, _, value in words}
        assert set(options) <= OPTIONS, f"{page.name}:{line}: {options}"
        if match["kind"] == "text":
            assert before is not None and before.output is None, f"{page.name}:{line}: the output of what?"
            before.output = match["text"]
            continue
        if match["kind"].startswith("{"):
            continue
        before = Snippet(page.name, line, match["kind"], match["text"], options, None, dict(files))
        if "file" in options:
            files[options["file"]] = match["text"]
        yield before


SNIPPETS = [each for page in sorted(DOCS.glob("**/*.md")) for each in snippets_of(page)] if DOCS.exists() else []
CODE = [each for each in SNIPPETS if each.kind in ("python", "sh")]


def check_syntax(snippet: Snippet) -> None:
    if snippet.kind == "python":
        compile(snippet.text, str(snippet), "exec")
    elif snippet.kind == "sh":
        succeeds(subprocess.run(["sh", "-n"], input=snippet.text, capture_output=True, text=True, timeout=10))
    elif snippet.kind == "ini":
        configparser.ConfigParser(strict=True).read_string(snippet.text, str(snippet))
    elif snippet.kind == "toml":
        pytest.importorskip("tomllib", reason="Python has tomllib from 3.11 on").loads(snippet.text)
    else:
        raise AssertionError(f"{snippet}: a block of {snippet.kind!r} is neither run nor checked")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_programs(tmp_path / "bin")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def environment_for(snippet: Snippet, folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    environment = {**environment_with(folder.parent / "bin"), "HOME": str(folder)}  # where gunicorn has a socket
    environment["UWSGI_WORKER_RELOAD_MERCY"] = "5"  # seconds, not 60, for a worker that hangs in the interpreter itself
    needs: Any = snippet.options.get("needs")
    if needs == "postgres":
        server = request.getfixturevalue("postgres")
        environment |= {"PGHOST": server.folder, "PGPORT": str(server.port), "PGUSER": "postgres"}
        environment |= {"PGDATABASE": "postgres", "PGGSSENCMODE": "disable"}
    elif needs == "redis":
        environment["REDIS_URL"] = f"unix://{request.getfixturevalue('redis_server').folder}/socket"
    else:
        assert needs is None, f"{snippet} needs {needs}?"
    return environment


def comparable(text: str, folder: Path) -> str:
    text = text.replace(f"{folder}/", "")
    text = re.sub(r"\bprocess \d+\b", "process N", text)
    text = re.sub(r"\b\d+\.\d+ s\b", "N s", text)
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE).strip()


def pattern_of(shown: str) -> str:
    def pattern(line: str) -> str:
        return r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n"

    return "".join(map(pattern, shown.splitlines()))


def stops(running: Running) -> bool:
    """One SIGTERM may not do: a worker of uWSGI that is just starting drops it."""
    running.process.terminate()
    return running.read(LIMIT / 6)


@pytest.mark.parametrize("snippet", CODE, ids=str)
def test_snippet(snippet: Snippet, folder: Path, request: pytest.FixtureRequest) -> None:
    check_syntax(snippet)
    options = snippet.options
    if "never" in options:
        return
    if not snippet.is_there:
        pytest.skip(f"{options['with']} is not installed: only compiled")
    for name, text in snippet.files.items():
        (folder / name).write_text(text)
    if options.get("file"):
        assert snippet.users(), f"{snippet}: nothing later on the page runs {options['file']}"
        return
    environment = environment_for(snippet, folder, request)
    if snippet.kind == "python":
        (folder / "snippet.py").write_text(snippet.text)
        command = [sys.executable, "snippet.py"]
    else:
        command = ["sh", "-e", "-c", snippet.text]
    with Running(command, folder, environment) as running:
        if "hangs" in options:
            assert not running.read(CONTROL), f"it ended:\n{running.said}"
        elif options.get("until"):
            assert running.read(LIMIT, options["until"]), running.said
            assert not running.read(1), f"it ended by itself:\n{running.said}"  # its other workers begin as well
            assert any(stops(running) for _ in range(6)), f"SIGTERM does not end it:\n{running.said}"
        else:
            status = running.ends(LIMIT)
            assert status == int(options.get("status", 0)), f"status {status}\n{running.said}"
        said = running.said
    if snippet.output is not None:
        wanted, got = (comparable(text, folder) + "\n" for text in (snippet.output, said))
        assert re.fullmatch(pattern_of(wanted), got), f"shown:\n{wanted}\nwritten:\n{got}"


@pytest.mark.parametrize("snippet", [each for each in SNIPPETS if each.kind in CONFIGURATIONS], ids=str)
def test_configuration(snippet: Snippet) -> None:
    check_syntax(snippet)


def test_kinds_known() -> None:
    assert {each.kind for each in SNIPPETS} <= {"python", "sh", *CONFIGURATIONS}
    assert len(CODE) > 40


def test_compiled_only_count() -> None:
    assert len([each for each in CODE if each.may_be_only_compiled]) == ONLY_COMPILED


def test_reference_complete() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto\w+:: forksafe\.(\w+)$", text, re.MULTILINE)
    assert sorted(documented) == sorted(set(forksafe.__all__) - {"testing"})
    assert ".. autofunction:: forksafe.testing.run_in_child" in (DOCS / "testing.md").read_text(encoding="utf-8")


def test_architecture_folders() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    sources = ROOT / "src" / "forksafe"
    if not sources.exists():
        pytest.skip("the sources are not here")
    described = set(re.findall(r"^\| `([\w/]+)/` \|", text, re.MULTILINE)) | set(re.findall(r"`([a-z]\w+\.py)`", text))
    folders = {str(each.parent.relative_to(sources)) for each in sources.glob("*/**/__init__.py")}
    modules = {each.name for each in sources.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert described == folders | modules


def test_drawings_self_contained() -> None:
    for drawing in sorted(DOCS.glob("**/*.svg")):
        text = drawing.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "<title>" in text, f"{drawing.name}: say in a <title> what is drawn"
        assert not re.search(r"https?:|<script|<image|@import|url\((?!#)", text), drawing.name


def test_pages_build(tmp_path: Path) -> None:
    """With the command of CONTRIBUTING.md: every warning is an error, and so is a dead link."""
    for module in ("sphinx", "furo", "myst_parser"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'{module} is not installed: pip install ".[docs]"')
    (words,) = re.findall(r"^\S+/python -m (sphinx .*) docs build/docs$", CONTRIBUTING.read_text(), re.MULTILINE)
    command = [sys.executable, "-m", *words.split(), "docs", str(tmp_path / "html")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(each) for each in sys.path if each)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    pages = [page.relative_to(DOCS).with_suffix("") for page in DOCS.glob("**/*.md")]
    for page in pages:
        built = tmp_path / "html" / ("" if page.name == "index" else page) / "index.html"
        assert not re.search(r"""(src|<link[^>]* href)=["']https?:""", built.read_text(encoding="utf-8")), page
