"""In a child, under install(): modules half imported by threads that vanished."""

from __future__ import annotations

import pytest

from support.patching import run
from support.programs import succeeds

PACKAGE = {
    "pkg/__init__.py": "from pkg import done\nfrom pkg import slow\nready = True\n",
    "pkg/done.py": "import pkg\ndef parent():\n    return pkg.ready\n",
    "pkg/slow.py": "import builtins\nbuiltins.importing.set()\nbuiltins.go.wait(30)\nvalue = 42\n",
}
PROGRAM = """
import builtins
builtins.importing, builtins.go = threading.Event(), threading.Event()
def load():
    import pkg
threading.Thread(target=load, daemon=True).start()
assert importing.wait(5)
def child():
    go.set()
    import pkg, pkg.slow
    from pkg import done
    assert pkg.ready and pkg.slow.value == 42 and done.parent() and pkg.done is done
    assert pkg.__spec__.loader is pkg.__loader__ and type(pkg.__loader__).__name__ == "SourceFileLoader"
    import importlib
    importlib.reload(pkg)
in_child(child, 3)
go.set()
import pkg
assert pkg.ready
"""


@pytest.fixture
def package(tmp_path):
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_half_imported_package(package):
    succeeds(run(package, PROGRAM))


def test_half_imported_not_installed(package):
    """The control: the import hangs."""
    result = run(package, PROGRAM, install="")
    assert result.returncode == 1
    assert "the child hung" in result.stderr


def test_in_a_grandchild(package):
    """Half imported at the first fork, and not touched before the second."""
    succeeds(run(package, PROGRAM.replace("in_child(child, 3)", "in_child(lambda: in_child(child, 3), 5)")))


def test_import_of_forking_thread(tmp_path):
    """It goes on in the child."""
    (tmp_path / "forks.py").write_text(
        "import os\npid = os.fork()\nif pid:\n    status = os.waitpid(pid, 0)[1]\nvalue = 1\n"
    )
    succeeds(run(tmp_path, """
        import forks
        assert forks.value == 1
        if forks.pid == 0:
            import forks
            os._exit(0)
        assert forks.status == 0
    """))  # fmt: skip


def test_import_first_after_c_fork(tmp_path):
    """No hooks ran: the cure comes while this very import holds its module's lock."""
    (tmp_path / "late.py").write_text("value = 1\n")
    succeeds(run(tmp_path, """
        import ctypes
        libc = ctypes.PyDLL(None)
        os.fork = libc.fork
        def child():
            import late
            return late.value == 1
        in_child(child)
    """))  # fmt: skip


def test_module_fails_half_way(tmp_path):
    """Its import can be tried again."""
    (tmp_path / "flaky.py").write_text(
        "import builtins\nbuiltins.importing.set()\nbuiltins.go.wait(30)\n"
        "builtins.tries.append(1)\nif len(builtins.tries) == 1:\n    raise OSError('first')\n"
    )
    succeeds(run(tmp_path, """
        import builtins
        builtins.importing, builtins.go, builtins.tries = threading.Event(), threading.Event(), []
        def load():
            try:
                import flaky
            except OSError: pass
        threading.Thread(target=load, daemon=True).start()
        assert importing.wait(5)
        def child():
            go.set()
            try:
                import flaky
            except OSError: pass
            else: return False
            import flaky
        in_child(child)
    """))  # fmt: skip
