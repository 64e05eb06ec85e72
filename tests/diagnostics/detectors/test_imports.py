"""hazards(): imports under way."""

from __future__ import annotations

from support.programs import python, succeeds


def test_an_import_under_way(tmp_path):
    (tmp_path / "slow_to_import.py").write_text("import builtins; builtins.inside.set(); builtins.go.wait(30)\n")
    succeeds(python("-c", f"""if True:
        import builtins, sys, threading, forksafe
        sys.path.insert(0, {str(tmp_path)!r})
        builtins.inside, builtins.go = threading.Event(), threading.Event()
        thread = threading.Thread(target=__import__, args=("slow_to_import",), name="importer")
        thread.start()
        assert inside.wait(10)
        (hazard,) = forksafe.hazards(["import"])
        assert hazard.module == "slow_to_import" and hazard.thread == "importer", hazard
        assert hazard.severity == "danger"
        go.set()
        thread.join(10)
        assert forksafe.hazards(["import"]) == []
    """))  # fmt: skip
