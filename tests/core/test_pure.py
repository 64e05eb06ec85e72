"""Where there is no fork: threading's own objects under forksafe's names. And where there is: no fallback.

Platforms without fork are simulated: a fresh interpreter loses os.fork and os.register_at_fork before it imports.
"""

from __future__ import annotations

import pytest

from support.programs import python, succeeds

pytestmark = pytest.mark.timeout(60)

WITHOUT_FORK = """
import os, sys, threading
for name in ("fork", "forkpty", "register_at_fork"):
    if hasattr(os, name):
        delattr(os, name)

import forksafe, forksafe_core
from forksafe_core import IMPL

def raises(error, message, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error as caught:
        assert type(caught) is error and message in str(caught), repr(caught)
    else:
        raise AssertionError(f"no {error.__name__}")
"""

CASES = {
    "which core": """
        assert IMPL == forksafe_core.IMPL == "pure"
        assert forksafe.generation() == 0 == forksafe_core.atfork.generation()
        assert "forksafe_core._locks" not in sys.modules and "forksafe_core._atfork" not in sys.modules
    """,
    "every name": """
        for module in (forksafe, forksafe_core):
            assert sorted(module.__all__) == sorted(set(module.__all__))
            for name in module.__all__:
                missing = getattr(module, name) is None
                assert missing == (name in ("FutureState", "WorkQueue")), name
            assert set(module.__all__) <= set(dir(module))
        from forksafe import *
    """,
    "every module": """
        import importlib, pkgutil
        names = [each.name for each in pkgutil.walk_packages(forksafe.__path__, "forksafe.")]
        assert {"forksafe.locks", "forksafe.atfork.hooks", "forksafe.testing"} <= set(names)
        for name in names:
            if "examples" not in name and name.rpartition(".")[2] not in ("__main__", "sitecustomize"):
                importlib.import_module(name)
    """,
    "locks are threading's": """
        assert type(forksafe.Lock()) is type(threading.Lock())
        assert type(forksafe.RLock()) is type(threading.RLock())
        assert issubclass(forksafe.Semaphore, threading.Semaphore)
        assert issubclass(forksafe.BoundedSemaphore, threading.BoundedSemaphore)
        assert issubclass(forksafe.BoundedSemaphore, forksafe.Semaphore)
        assert issubclass(forksafe.Condition, threading.Condition)
        assert issubclass(forksafe.Event, threading.Event)
        assert issubclass(forksafe.Barrier, threading.Barrier)
        assert forksafe.local is threading.local
    """,
    "nothing is a hazard": """
        assert forksafe.hazards() == []
        with forksafe.guard("raise") as guard:
            guard.off()
        raises(ValueError, "guard(action)", forksafe.guard, "shout")
        raises(ValueError, "hazards(kinds)", forksafe.hazards, ["nonsense"])
        forksafe.track_locks()
        with forksafe.Lock():
            pass
        forksafe.track_locks(False)
        raises(TypeError, "track_locks(on)", forksafe.track_locks, 1)
    """,
    "locks lock": """
        for kind in (forksafe.Lock, forksafe.RLock):
            lock = kind()
            with lock:
                got = []
                thread = threading.Thread(target=lambda: got.append(lock.acquire(timeout=0.05)))
                thread.start()
                thread.join(10)
                assert got == [False]
            assert lock.acquire(False)
            lock.release()
            raises(RuntimeError, "", lock.release)
    """,
    "isinstance": """
        assert isinstance(forksafe.Lock(), forksafe.Lock) and isinstance(threading.Lock(), forksafe.Lock)
        assert isinstance(forksafe.RLock(), forksafe.RLock) and isinstance(threading.RLock(), forksafe.RLock)
        assert not isinstance(forksafe.Lock(), forksafe.RLock)
        assert not isinstance(forksafe.RLock(), forksafe.Lock)
        assert not isinstance(3, forksafe.Lock)
        assert isinstance(forksafe.Semaphore(), forksafe.Semaphore)
        assert isinstance(forksafe.BoundedSemaphore(), forksafe.Semaphore)
        assert not isinstance(forksafe.Semaphore(), forksafe.BoundedSemaphore)
    """,
    "keywords that speak of forks are checked": """
        for kind in (forksafe.Lock, forksafe.RLock):
            lock = kind(on_orphan=print, hold=True, hold_timeout=1)
            with lock:
                pass
            raises(TypeError, f"{kind.__name__}(on_orphan=...) takes a callable without arguments, not 'int'",
                   kind, on_orphan=3)
            for wrong in (-1, float("nan"), 1e300):
                raises(ValueError, f"{kind.__name__}(hold_timeout=...) takes seconds from 0", kind, hold_timeout=wrong)
            raises(TypeError, "", kind, 1)
            raises(TypeError, "", kind, nonsense=1)
        assert forksafe.Semaphore(2, at_fork="restore").acquire(False)
        raises(ValueError, "Semaphore(at_fork=...) takes 'keep' or 'restore', not 'x'", forksafe.Semaphore, at_fork="x")
        raises(TypeError, "", forksafe.BoundedSemaphore, 1, at_fork="keep")
    """,
    "executors and quiesce": """
        import concurrent.futures
        executor = forksafe.ThreadPoolExecutor(2, fork_grace=5)
        assert isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        futures = [executor.submit(pow, 2, n) for n in range(100)]
        assert all(isinstance(each, forksafe.Future) for each in futures)
        assert [each.result(10) for each in concurrent.futures.as_completed(futures, 10)].count(32) == 1
        assert list(executor.map(pow, [2, 3], [4, 5])) == [16, 243]
        failing = executor.submit(int, "x")
        raises(ValueError, "invalid literal", failing.result, 10)
        with forksafe.quiesce(5) as busy:
            assert busy == []
        raises(TypeError, "ThreadPoolExecutor(fork_grace)", forksafe.ThreadPoolExecutor, fork_grace="long")
        raises(ValueError, "ThreadPoolExecutor(fork_grace)", forksafe.ThreadPoolExecutor, fork_grace=-1)
        assert forksafe.Future is concurrent.futures.Future
        assert issubclass(forksafe.InheritedFutureError, concurrent.futures.BrokenExecutor)
        held, waiting = threading.Event(), threading.Event()
        executor.submit(lambda: (held.set(), waiting.wait(10)))
        executor.submit(waiting.wait, 10)
        assert held.wait(10)
        never = executor.submit(pow, 2, 6)
        assert never.cancel() and never.cancelled()
        dropped = executor.submit(pow, 2, 7)
        executor.shutdown(wait=False, cancel_futures=True)
        waiting.set()
        assert dropped.cancelled()
        raises(RuntimeError, "cannot schedule new futures after shutdown", executor.submit, pow, 2, 5)
    """,
    "a subclass of a lock": """
        # Of the compiled types there may be subclasses; threading's do not allow any.
        def subclass():
            class Named(forksafe.Lock):
                pass
            return Named()
        try:
            lock = subclass()
        except TypeError as error:
            assert "forksafe" in str(error) or "base type" in str(error), error
        else:
            with lock:
                assert lock.locked()
    """,
    "conditions, events and barriers": """
        condition, ready, seen = forksafe.Condition(), forksafe.Event(), []
        def wait():
            with condition:
                ready.set()
                seen.append(condition.wait(10))
        thread = threading.Thread(target=wait)
        thread.start()
        assert ready.wait(10)
        with condition:
            condition.notify()
        thread.join(10)
        assert seen == [True]

        barrier = forksafe.Barrier(2)
        thread = threading.Thread(target=lambda: seen.append(barrier.wait(10)))
        thread.start()
        seen.append(barrier.wait(10))
        thread.join(10)
        assert sorted(seen[1:]) == [0, 1] and barrier.n_waiting == 0
    """,
    "semaphores": """
        semaphore = forksafe.BoundedSemaphore(2)
        with semaphore, semaphore:
            assert not semaphore.acquire(False) and not semaphore.acquire(timeout=0.01)
        raises(ValueError, "Semaphore released too many times", semaphore.release)
        raises(ValueError, "semaphore initial value must be >= 0", forksafe.Semaphore, -1)
        for kind in (forksafe.Semaphore, forksafe.BoundedSemaphore):
            if "value" in repr(threading.Semaphore()):
                assert repr(kind(3)).startswith(f"<forksafe.{kind.__name__} at "), repr(kind(3))
    """,
    "local": """
        values = forksafe.local()
        values.mine = 1
        seen = []
        thread = threading.Thread(target=lambda: seen.append(hasattr(values, "mine")))
        thread.start()
        thread.join(10)
        assert seen == [False] and values.mine == 1
    """,
    "a value": """
        import pickle
        calls = []
        value = forksafe.PerProcess(lambda: calls.append(1) or "made")
        assert not value.made and value.peek() is None and "not made" in repr(value)
        assert value() == value() == value.peek() == "made" and calls == [1] and value.made
        raises(TypeError, "takes a callable without arguments, not 'int'", forksafe.PerProcess, 3)
        recursive = forksafe.PerProcess(lambda: recursive())
        raises(RuntimeError, "asks for the value of the PerProcess", recursive)
        assert pickle.loads(pickle.dumps(forksafe.PerProcess(list)))() == [] and forksafe.PerProcess[int]
        named = forksafe.PerProcess(raises)
        raises = named
        assert pickle.loads(pickle.dumps(named)) is named
    """,
    "hooks": """
        called = []
        registration = forksafe.register_at_fork(before=lambda: called.append(1))
        assert isinstance(registration, forksafe.Registration)
        for decorate in (forksafe.before, forksafe.after_in_parent, forksafe.after_in_child):
            def hook():
                called.append(2)
            assert decorate(hook) is hook
        registration.unregister()
        registration.unregister()
        raises(TypeError, "takes a callable", forksafe.register_at_fork, before=3)
        raises(TypeError, "at least one of", forksafe.register_at_fork)
        assert not called and forksafe.generation() == 0
    """,
    "install and protect": """
        before = dict(vars(threading))
        forksafe.install()
        assert dict(vars(threading)) == before, "install() has nothing to do here"
        forksafe.uninstall()
        lock = threading.Lock()
        assert forksafe.protect(lock) is lock
        assert forksafe.unprotect(lock) is lock
        raises(TypeError, "protect()", forksafe.protect, object())
    """,
    "run_in_child": """
        from forksafe.testing import run_in_child
        try:
            run_in_child(lambda: 1)
        except Exception as error:
            assert not isinstance(error, AttributeError) and "run_in_child()" in str(error), repr(error)
        else:
            raise AssertionError("it claims to have forked")
    """,
    "the core's other names": """
        lock = forksafe_core.Lock(hold=True)
        assert forksafe_core.holder(lock) == 0
        assert forksafe_core.hold_timeout(lock) is None
        assert forksafe_core.held_across_forks() == []
        atfork = forksafe_core.atfork
        assert atfork.state()["generation"] == 0 and atfork.state()["wipes"] is False
        assert atfork.gone(atfork.token()) is False
        assert atfork.ident_of(atfork.token()) == threading.get_ident()
        assert atfork.exchange_forking(1) == 0 and atfork.mark_settled() is False
        atfork.set_late_hooks(print)
    """,
    "exceptions nobody can catch": """
        reports = []
        sys.unraisablehook = reports.append
        error = ValueError("x")
        forksafe_core.atfork.write_unraisable(error, print)
        (report,) = reports
        assert report.exc_type is ValueError and report.exc_value is error and report.object is print
    """,
}


def without_fork(body: str) -> str:
    lines = body.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    return succeeds(python("-W", "error", "-c", WITHOUT_FORK + "\n".join(line[indent:] for line in lines)))


@pytest.mark.parametrize("case", CASES)
def test_without_fork(case):
    without_fork(CASES[case])


def test_unraisable_without_hook():
    """Without a hook an unraisable exception is printed."""
    program = WITHOUT_FORK + "forksafe_core.atfork.write_unraisable(ValueError('seen'), print)"
    result = python("-c", program)
    assert result.returncode == 0
    assert "ValueError: seen" in result.stderr
    assert "print" in result.stderr


def test_both_cores_have_the_same_names():
    compiled = succeeds(python("-c", "import forksafe_core as c; print(c.IMPL, *sorted(vars(c.atfork)))")).split()
    pure = without_fork("print(IMPL, *sorted(vars(forksafe_core.atfork)))").split()
    if compiled[0] == "pure":
        pytest.skip("there is no fork here at all")
    assert pure[0] == "pure"
    assert {name for name in compiled[1:] if not name.startswith("_")} == set(pure[1:])


@pytest.mark.parametrize("name", ["_atfork", "_locks", "_semaphores", "_local"])
@pytest.mark.parametrize("package", ["forksafe", "forksafe_core"])
def test_compiled_core_missing(name, package):
    """Where there is fork, a missing compiled module is an error that says what to do."""
    program = f"""
import os, sys
if not hasattr(os, "fork"):
    print("no fork")
    sys.exit()

class Blocker:
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "forksafe_core.{name}":
            raise ModuleNotFoundError(f"No module named {{fullname!r}}", name=fullname)

sys.meta_path.insert(0, Blocker())
try:
    import {package}
except ImportError as error:
    assert isinstance(error.__cause__, ImportError), repr(error.__cause__)
    print(error)
else:
    print("imported", {package})
assert "forksafe_core.pure" not in sys.modules
"""
    message = succeeds(python("-c", program)).strip()
    if message == "no fork":
        pytest.skip("there is no fork here")
    assert message.startswith("forksafe's compiled core does not load")
    assert f"forksafe_core.{name}" in message, "what is missing"
    assert "platform with fork needs it" in message, "why that matters"
    assert "pip install" in message, "what to do"
    assert "C compiler" in message
    assert "circular import" not in message, "a wrong explanation"
