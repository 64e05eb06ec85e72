"""Condition, Event, Barrier and local in a child."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest

import forksafe
from forksafe.testing import run_in_child
from support.threads import threads


def vanished_waiter_takes_the_notification(module):
    """In a child: notify(1) of a condition on which a thread of the parent waited; does the child's waiter wake?"""
    condition = module.Condition()
    ready = threading.Event()

    def wait_in_parent():
        with condition:
            ready.set()
            condition.wait(20)

    def child():
        woken, waiting = [], threading.Event()

        def wait():
            with condition:
                waiting.set()
                woken.append(condition.wait(1))

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(5)
        with condition:
            condition.notify(1)
        thread.join(5)
        return woken

    with threads(wait_in_parent, 1):
        assert ready.wait(5)
        with condition:  # it waits now
            pass
        try:
            return run_in_child(child)
        finally:
            with condition:
                condition.notify_all()


class TestCondition:
    def test_notify_wakes_one_that_lives(self):
        assert vanished_waiter_takes_the_notification(forksafe) == [True]

    def test_threading_condition(self):
        """The control: threading's notifies the thread that vanished."""
        assert vanished_waiter_takes_the_notification(threading) == [False]

    def test_lock_held_by_another_thread_is_free(self, busy, fork):
        condition = forksafe.Condition()
        busy(condition.acquire, condition.release)

        def child():
            with condition:
                return condition.wait(0.05)

        assert run_in_child(child, fork=fork) is False

    @pytest.mark.parametrize("lock", [forksafe.Lock, forksafe.RLock, threading.Lock, threading.RLock])
    def test_over_each_kind_of_lock(self, lock):
        condition = forksafe.Condition(lock())
        items = []

        def get():
            with condition:
                assert condition.wait_for(lambda: items, 10)
                items.pop()

        with threads(get, 4):
            for _ in range(4):
                with condition:
                    items.append(1)
                    condition.notify()
        assert not items

    def test_wrong_use(self):
        condition = forksafe.Condition()
        for call in (condition.wait, condition.notify, condition.notify_all):
            with pytest.raises(RuntimeError, match="un-acquired lock"):
                call()

    def test_isinstance(self):
        assert isinstance(forksafe.Condition(), threading.Condition)


class TestEvent:
    def test_flag_survives_and_its_lock_is_free(self, busy, fork):
        for flag in (False, True):
            event = forksafe.Event()
            if flag:
                event.set()
            busy(event._cond.acquire, event._cond.release)

            def child(event=event):
                before = event.is_set()
                event.set()
                return before, event.wait(2)

            assert run_in_child(child, fork=fork) == (flag, True)

    def test_set_in_child(self):
        """It wakes the child's waiters."""
        event = forksafe.Event()
        with threads(lambda: event.wait(20), 2):
            time.sleep(0.05)

            def child():
                woken = []
                with threads(lambda: woken.append(event.wait(5)), 3):
                    time.sleep(0.05)
                    event.set()
                return woken

            assert run_in_child(child) == [True] * 3
            event.set()


class TestBarrier:
    def forked_with_one_waiting(self, module):
        barrier = module.Barrier(2)

        def wait():
            try:
                barrier.wait(20)
            except threading.BrokenBarrierError:
                pass

        def child():
            try:
                return barrier.wait(0.3)
            except threading.BrokenBarrierError:
                return "broken"

        with threads(wait, 1):
            while barrier.n_waiting < 1:
                time.sleep(0.001)
            try:
                return run_in_child(child)
            finally:
                barrier.abort()

    def test_vanished_party_does_not_count(self):
        assert self.forked_with_one_waiting(forksafe) == "broken"  # it timed out, alone

    def test_threading_barrier(self):
        """The control: threading's lets the child through alone."""
        assert self.forked_with_one_waiting(threading) == 1

    def test_works_in_the_child(self, fork):
        barrier = forksafe.Barrier(3)

        def wait():
            try:
                barrier.wait(20)
            except threading.BrokenBarrierError:
                pass

        def child():
            forksafe.generation()  # where no handler ran, the thread that forked has to show itself
            numbers = []
            with threads(lambda: numbers.append(barrier.wait(5)), 3):
                pass
            with threads(lambda: numbers.append(barrier.wait(5)), 3):
                pass
            return sorted(numbers), barrier.n_waiting

        with threads(wait, 2):
            while barrier.n_waiting < 2:
                time.sleep(0.001)
            try:
                assert run_in_child(child, 20, fork=fork) == ([0, 0, 1, 1, 2, 2], 0)
            finally:
                barrier.abort()

    def test_reset_and_abort_in_the_child(self):
        barrier = forksafe.Barrier(2)

        def child():
            barrier.abort()
            broken = barrier.broken
            barrier.reset()
            return broken, barrier.broken, barrier.n_waiting

        assert run_in_child(child) == (True, False, 0)


class Closing:
    """Stands for a connection: says goodbye, in the log of its test, when it is freed."""

    def __init__(self, log):
        self.log = log

    def __del__(self):
        self.log.append("closed")


class TestLocal:
    def test_survivor_finds_it_empty(self, fork):
        """It is empty in a child, for the thread that forked, too."""
        local = forksafe.local()
        local.connection = 1

        def child():
            before = vars(local).copy()
            local.connection = 2
            return before, local.connection

        assert run_in_child(child, fork=fork) == ({}, 2)
        assert local.connection == 1

    def test_control_threadings_is_not(self):
        local = threading.local()
        local.connection = 1
        assert run_in_child(lambda: local.connection) == 1

    def inherited_values_freed(self, module, busy):
        """How many values' finalisers run in a child, of the thread that forked and of one that vanished."""
        log = []
        local = module.local()
        busy(lambda: setattr(local, "connection", Closing(log)))
        local.connection = Closing(log)

        def child():
            nonlocal local
            if module is forksafe:
                assert not hasattr(local, "connection")
            del local
            gc.collect()
            return log

        return run_in_child(child)

    def test_no_finaliser_of_inherited_values_runs(self, busy):
        assert self.inherited_values_freed(forksafe, busy) == []

    def test_control_threadings_finalises_them(self, busy):
        assert "closed" in self.inherited_values_freed(threading, busy)

    def test_untouched_in_the_child_and_then_freed(self, busy):
        log = []
        local = forksafe.local()
        local.connection = Closing(log)

        def child():
            nonlocal local
            local = None
            gc.collect()
            return log

        assert run_in_child(child) == []

    def test_untouched_then_garbage(self):
        """In a cycle, which only the garbage collector frees, and clears before."""
        log = []

        class Client:
            def __init__(self):
                self.own = self
                self.local = forksafe.local()
                self.local.connection = Closing(log)
                self.local.client = self

        client = Client()

        def child():
            nonlocal client
            client = None
            gc.collect()
            return log

        assert run_in_child(child) == []
        client = None
        gc.collect()
        assert log == ["closed"]

    def test_values_go_with_their_thread(self):
        local = forksafe.local()
        gone = []

        def work():
            local.value = Closing([])
            gone.append(weakref.ref(local.value))

        with threads(work, 3):
            pass
        gc.collect()
        assert [ref() for ref in gone] == [None] * 3

    def test_values_of_a_childs_thread_go_too(self):
        local = forksafe.local()
        local.value = 1

        def child():
            gone = []

            def work():
                local.value = Closing([])
                gone.append(weakref.ref(local.value))

            with threads(work, 2):
                pass
            return [ref() for ref in gone]

        assert run_in_child(child) == [None, None]

    def test_subclass_in_child(self, fork):
        """It is initialised again."""

        class Session(forksafe.local):
            limit = 5

            def __init__(self, name):
                self.name = name
                self.calls = 0

            @property
            def double(self):
                return self.name * 2

        session = Session("a")
        session.calls = 7
        assert run_in_child(lambda: (session.name, session.calls, session.limit, session.double), fork=fork) == (
            "a",
            0,
            5,
            "aa",
        )
        with pytest.raises(AttributeError):
            session.double = 1

    def test_names_that_are_str_subclasses(self):
        class Name(str):
            __slots__ = ()

        local = forksafe.local()
        setattr(local, Name("x"), 1)
        assert getattr(local, Name("x")) == local.x == 1
        delattr(local, Name("x"))
        assert not hasattr(local, "x")
        assert isinstance(local, threading.local)


def test_barrier_action_asks_n_waiting():
    """An action may ask its barrier how many threads wait."""
    seen = []

    def action():
        with threads(lambda: seen.append((barrier.n_waiting, repr(barrier) != "")), 1):
            pass

    barrier = forksafe.Barrier(1, action)
    barrier.wait(5)
    assert seen == [(1, True)]
