"""hazards(): what a fork would break, as it is at that moment; and nothing that forksafe takes care of."""

from __future__ import annotations

import json
import queue
import threading

import pytest

import forksafe
from forksafe.diagnostics.hazard import KINDS
from support.hazards import Account, of
from support.programs import python, script, succeeds


@pytest.mark.parametrize("protected", ["the lock", "its owner", "a queue"])
def test_what_is_protected_is_no_hazard(busy, protected):
    account, tasks = Account(threading.Lock()), queue.Queue()
    lock = tasks.mutex if protected == "a queue" else account.lock
    inside = busy(lock.acquire, lock.release)
    what = "queue.Queue" if protected == "a queue" else "support.hazards.Account.lock"
    assert len(of("lock", what=what)) == 1
    obj = {"the lock": account.lock, "its owner": account, "a queue": tasks}[protected]
    forksafe.protect(obj)
    assert of("lock", what=what) == []
    forksafe.unprotect(obj)
    assert len(of("lock", what=what)) == 1
    inside.end()


def test_what_install_cures_is_no_hazard(busy, tmp_path):
    out = succeeds(python("-c", f"""
import sys, threading
sys.path.insert(0, {str(tmp_path)!r})
open({str(tmp_path / "slow_module.py")!r}, "w").write("import __main__; __main__.inside.set(); __main__.go.wait(30)")
inside, go = threading.Event(), threading.Event()
import forksafe
threading.Thread(target=__import__, args=("slow_module",), daemon=True).start()
assert inside.wait(10)
print([hazard.what for hazard in forksafe.hazards(["import"])])
forksafe.install()
print(forksafe.hazards(["import"]))
forksafe.uninstall()
print(len(forksafe.hazards(["import"])))
go.set()
"""))  # fmt: skip
    assert out == "['the import of slow_module, which another thread is in the middle of']\n[]\n1\n"


def test_no_code_of_the_programs_is_run(busy):
    """A lazy proxy that is asked for its class or its attributes makes its object, and may wait for another thread."""
    asked = []

    class Lazy:
        __slots__ = ("__dict__", "lock")

        def __getattribute__(self, name):
            asked.append(name)
            return object.__getattribute__(self, name)

        __class__ = property(lambda self: asked.append("__class__") or int)

    class Table(dict):
        def __getattribute__(self, name):
            asked.append(name)
            return super().__getattribute__(name)

        def __contains__(self, key):
            asked.append(key)
            return super().__contains__(key)

    lazy, table = Lazy(), Table(lock=threading.RLock())
    lazy.lock = lock = threading.RLock()
    object.__getattribute__(lazy, "__dict__")["another"] = another = threading.RLock()
    held = [lock, another, dict.__getitem__(table, "lock")]
    inside = busy(lambda: [each.acquire() for each in held], lambda: [each.release() for each in held])
    asked.clear()
    found = of("lock")
    assert asked == []
    assert len([hazard for hazard in found if "Lazy" in hazard.what or "'lock'" in hazard.what]) == 3, found
    inside.end()


def test_start_method_and_libraries():
    succeeds(python("-c", """if True:
        import multiprocessing, threading, forksafe
        multiprocessing.set_start_method("fork")
        assert forksafe.hazards(["start method"]) == []
        go = threading.Event()
        threading.Thread(target=go.wait).start()
        (hazard,) = forksafe.hazards(["start method"])
        assert "forksafe.get_context()" in hazard.cure
        go.set()
    """))  # fmt: skip


def test_hazards_order_and_json(busy):
    """The worst come first, and all can be written as JSON."""
    lock = threading.RLock()
    inside = busy(lock.acquire, lock.release)
    found = forksafe.hazards()
    ranks = ["danger", "warning", "note"]
    assert [ranks.index(each.severity) for each in found] == sorted(ranks.index(each.severity) for each in found)
    assert all(each.kind in KINDS and each.what and each.consequence and each.cure for each in found)
    assert len(json.loads(json.dumps([each.as_dict() for each in found]))) == len(found)
    assert all(str(each).startswith(f"{each.kind}: ") for each in found)
    inside.end()


def test_nothing_secret_is_told(tmp_path):
    """No values of arguments or variables, no environment, no contents."""
    path = script(tmp_path / "program.py", """
        import forksafe, json, os, socket, sys, threading
        secret = "hunter" + "2"
        lock, inside, go = threading.Lock(), threading.Event(), threading.Event()

        def work(password, lock):
            with lock:
                inside.set()
                go.wait(30)

        threading.Thread(target=work, args=(secret, lock)).start()
        assert inside.wait(10)
        print(json.dumps([each.as_dict() for each in forksafe.hazards()]))
        go.set()
    """)  # fmt: skip
    said = succeeds(python(path, secret := "argument-hunter2", env={"PASSWORD": "hunter2"}))
    assert json.loads(said)
    assert "hunter2" not in said
    assert secret not in said


def test_alone_it_is_quiet():
    said = succeeds(python("-c", "import forksafe; print(forksafe.hazards())", close_fds=True))
    assert said == "[]\n"


def test_bad_kinds():
    with pytest.raises(ValueError, match=r"hazards\(kinds\) takes some of thread, lock, .* not 'locks'"):
        forksafe.hazards(["locks"])


def test_function_not_module():
    """Whatever was imported before, the package's names are the functions."""
    modules = "import forksafe.diagnostics.hazard, forksafe.diagnostics.guard"
    succeeds(python("-c", f"{modules}; forksafe.hazards(); forksafe.guard().off()"))
