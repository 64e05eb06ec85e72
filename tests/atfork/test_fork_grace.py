"""fork_grace: a fork finds no task in the middle."""

from __future__ import annotations

import warnings

import forksafe
from forksafe.atfork import quiesce
from forksafe.testing import run_in_child
from support.tasks import Account, let_go_when_it_waits


def test_fork_waits_for_the_task():
    with forksafe.ThreadPoolExecutor(2, fork_grace=10) as executor:
        account = Account()
        future = executor.submit(account.change)
        assert account.torn.wait(10)
        thread = let_go_when_it_waits(account, executor)
        thread._go.set()
        assert run_in_child(account.in_child) is True
        assert future.result(10) is None
        assert executor.submit(pow, 2, 5).result(10) == 32
        thread.end()


def test_fork_grace_set_later():
    """fork_grace can be assigned: forks wait from then on, and with None no more."""
    with forksafe.ThreadPoolExecutor(2) as executor:
        for grace, whole in ((10, True), (None, False)):
            executor.fork_grace = grace
            assert executor.fork_grace == grace
            account = Account()
            executor.submit(account.change)
            assert account.torn.wait(10)
            thread = let_go_when_it_waits(account, executor) if whole else None
            if thread is not None:
                thread._go.set()
            assert run_in_child(account.in_child) is whole
            account.go_on.set()
            if thread is not None:
                thread.end()


def test_no_fork_grace_torn():
    """Control: without fork_grace the child finds the account torn."""
    with forksafe.ThreadPoolExecutor(2) as executor:
        account = Account()
        executor.submit(account.change)
        assert account.torn.wait(10)
        assert run_in_child(account.in_child) is False
        account.go_on.set()


def test_fork_grace_begins_nothing():
    """Nothing begins while a fork waits."""
    begun = []
    with forksafe.ThreadPoolExecutor(2, fork_grace=0) as executor:
        executor.submit(pow, 2, 5).result(10)
        late = []

        def hook():  # runs first, then the executor is paused; and in the parent after it goes on again
            late.append(executor.submit(begun.append, "submitted before the fork"))

        registration = forksafe.register_at_fork(before=hook)

        def child():
            return list(begun), executor.submit(pow, 2, 6).result(10)

        _, value = run_in_child(child)
        registration.unregister()
        assert value == 64
        assert late[0].result(10) is None


def test_time_is_up():

    with (
        warnings.catch_warnings(record=True) as caught,
        forksafe.ThreadPoolExecutor(2, "slow", fork_grace=0.2) as executor,
    ):
        warnings.simplefilter("always")
        account = Account()
        future = executor.submit(account.change)
        assert account.torn.wait(10)
        assert run_in_child(lambda: executor.submit(pow, 2, 5).result(10)) == 32
        account.go_on.set()
        future.result(10)
        assert executor.submit(pow, 2, 6).result(10) == 64
    (warning,) = [each for each in caught if each.category is forksafe.ForkHazardWarning]
    text = str(warning.message)
    assert f"slow_0 at {Account.change.__code__.co_filename}:" in text and " in change did not" in text
    assert "fork_grace" in text


def test_fork_grace_forking_task():
    """A task that forks waits for the others, not for itself."""
    with forksafe.ThreadPoolExecutor(2, fork_grace=10) as executor:
        account = Account()
        executor.submit(account.change)
        assert account.torn.wait(10)
        thread = let_go_when_it_waits(account, executor)
        thread._go.set()
        assert executor.submit(run_in_child, account.in_child).result(15) is True
        thread.end()


def test_fork_inside_a_hook():
    with forksafe.ThreadPoolExecutor(1, fork_grace=5) as executor:
        executor.submit(pow, 2, 5).result(10)
        results = []

        def hook():
            registration.unregister()
            results.append(run_in_child(lambda: executor.submit(pow, 2, 6).result(10)))

        registration = forksafe.register_at_fork(before=hook)
        assert run_in_child(lambda: executor.submit(pow, 2, 7).result(10)) == 128
        assert results == [64]
        assert executor.submit(pow, 2, 8).result(10) == 256


def test_fork_that_fails_lets_it_go_on():
    with forksafe.ThreadPoolExecutor(1, fork_grace=5) as executor:
        executor.submit(pow, 2, 5).result(10)
        quiesce._before([])  # the interpreter calls after_in_parent then, too
        assert quiesce.is_paused(executor)
        quiesce._after([])
        assert executor.submit(pow, 2, 6).result(10) == 64
