"""post_import.register(): called once a module's code has run, without the import being any different."""

from __future__ import annotations

import zipfile

import pytest

from support.programs import python, script, succeeds

PRELUDE = """
import importlib, importlib.util, sys, threading
from forksafe.patching import post_import
seen = []
def note(module):
    seen.append((module.__name__, module.value))
"""


@pytest.fixture
def program(tmp_path):
    """Runs a program beside two modules and a package."""
    (tmp_path / "package").mkdir()
    (tmp_path / "one.py").write_text("value = 1\n")
    (tmp_path / "two.py").write_text("import one\nvalue = one.value + 1\n")
    (tmp_path / "package" / "__init__.py").write_text("value = 'package'\n")
    (tmp_path / "package" / "three.py").write_text("from package import value as outer\nvalue = outer + '.three'\n")

    def run(text: str) -> str:
        path = script(tmp_path / "program.py", text)
        body = (tmp_path / "program.py").read_text()
        (tmp_path / "program.py").write_text(PRELUDE + body)
        return succeeds(python(path))

    return run


def test_now_later_and_again(program):
    program("""
        import one
        for name in ("one", "two", "package.three", "no.such"):
            post_import.register(name, note)
        assert seen == [("one", 1)]
        import two, package.three
        assert seen[1:] == [("two", 2), ("package.three", "package.three")]
        import two
        assert len(seen) == 3
        importlib.reload(two)
        assert seen[3:] == [("two", 2)]
    """)


def test_the_importer_finds_it_done(program):
    program("""
        post_import.register("one", lambda module: setattr(module, "value", 10))
        import two
        assert two.value == 11
    """)


def test_module_and_loader_are_standard(program):
    """The module and its loader are the interpreter's."""
    program("""
        def look(module):
            spec, loader = module.__spec__, module.__loader__
            return spec, type(loader), dict(vars(loader)), spec.loader is loader, loader.get_source("one")
        import one
        without = look(one)
        del sys.modules["one"]
        post_import.register("one", note)
        found = importlib.util.find_spec("one")
        assert type(found.loader) is without[1] and found.origin == without[0].origin and seen == []
        import one
        assert look(one) == without and seen == [("one", 1)]
    """)


def test_forget(program):
    program("""
        finders = list(sys.meta_path)
        post_import.register("one", note)
        spec = importlib.util.find_spec("one")
        post_import.unregister([note]); post_import.unregister([note])
        assert sys.meta_path == finders
        import one
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert seen == []
    """)


def test_several_wait_and_one_raises(program):
    program("""
        reported = []
        sys.unraisablehook = lambda unraisable: reported.append(unraisable.exc_type)
        post_import.register("one", lambda module: 1 / 0)
        post_import.register("one", note)
        import one
        assert one.value == 1 and seen == [("one", 1)] and reported == [ZeroDivisionError]
    """)


def test_a_module_that_fails_is_not_there(program):
    program("""
        import pathlib
        fails = pathlib.Path(__file__).parent / "fails.py"
        fails.write_text("import nothing_of_the_kind")
        post_import.register("fails", note)
        for _ in range(2):
            try:
                import fails
            except ModuleNotFoundError as error:
                assert error.name == "nothing_of_the_kind"
        assert seen == [] and "fails" not in sys.modules
        fails.write_text("value = 'longer than before, so that it is read'")
        importlib.invalidate_caches()
        import fails
        assert len(seen) == 1
    """)


def test_beside_another_finder(program):
    """As import hooks of tracers do; whichever of the two is asked first."""
    program("""
        class Other:
            busy = False
            def find_spec(self, name, path=None, target=None):
                if self.busy:
                    return None
                self.busy = True
                try:
                    return importlib.util.find_spec(name)
                finally:
                    self.busy = False
        for first in (True, False):
            post_import.register("one", note)
            sys.meta_path.insert(0 if first else 1, Other())
            import one
            assert seen == [("one", 1)], seen
            del sys.meta_path[0 if first else 1], sys.modules["one"]
            seen.clear(); post_import.unregister([note])
    """)


def test_modules_in_a_zip_file(program, tmp_path):
    with zipfile.ZipFile(tmp_path / "modules.zip", "w") as file:
        file.writestr("first.py", "value = 'first'\n")
        file.writestr("second.py", "value = 'second'\n")
        file.writestr("third.py", "value = 'third'\n")
    program("""
        import os
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "modules.zip"))
        post_import.register("first", note)
        post_import.register("third", note)
        import first, second, third
        assert seen == [("first", "first"), ("third", "third")] and second.value == "second"
    """)


def test_threads_that_import_the_same(program):
    program("""
        post_import.register("two", note)
        threads = [threading.Thread(target=importlib.import_module, args=["two"]) for _ in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join(20)
        assert seen == [("two", 2)]
    """)
