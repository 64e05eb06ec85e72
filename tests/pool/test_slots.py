"""Slots, the pool's state, against a model: any order of its steps lends each thing once, first come, first served.

A run that fails prints the steps that lead there, as few as hypothesis finds. FORKSAFE_STORM has it try more.
"""

from __future__ import annotations

import os

import pytest

hypothesis = pytest.importorskip("hypothesis")

from hypothesis import settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule  # noqa: E402

from forksafe.testing import run_in_child  # noqa: E402
from forksafe_core import Entry, Slots, Waiter  # noqa: E402

EXAMPLES = max(15, int(os.environ.get("FORKSAFE_STORM", "0")))
LIMITS = st.integers(0, 4)


class Thing:
    pass


class SlotsMachine(RuleBasedStateMachine):
    """The model: idle is a stack that waiters never see filled, waiting is a queue, and all have a slot."""

    def __init__(self) -> None:
        super().__init__()
        self.min_size, self.max_size = 1, 2
        self.slots = Slots(self.min_size, self.max_size)
        self.idle: list[Entry] = []
        self.lent: list[Entry] = []
        self.waiting: list[Waiter] = []
        self.making, self.requests, self.closed = 0, 0, False

    @property
    def size(self) -> int:
        return len(self.idle) + len(self.lent) + self.making

    def place(self, entry: Entry) -> None:
        if self.waiting:
            waiter = self.waiting.pop(0)
            assert waiter.wait(0) and waiter.entry is entry
            self.lent.append(entry)
        else:
            self.idle.append(entry)

    @rule(again=st.booleans())
    def enqueue(self, again: bool) -> None:
        waiter = Waiter()
        assert self.slots.enqueue(waiter, again) is not self.closed
        if self.closed:
            return
        self.requests += not again
        if self.idle:  # so none waits
            self.lent.append(self.idle.pop())
            assert waiter.entry is self.lent[-1]
        else:
            assert waiter.entry is None and not waiter.wait(0)
            self.waiting.insert(0 if again else len(self.waiting), waiter)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        assert self.slots.cancel(waiter)
        assert not self.slots.cancel(waiter)
        self.waiting.remove(waiter)

    @rule()
    def reserve(self) -> None:
        useful = len(self.waiting) > self.making or self.size < self.min_size
        claim: list[None] = []
        may = not self.closed and self.size < self.max_size and useful
        assert self.slots.reserve(claim) is may
        assert len(claim) == may
        self.making += may

    @precondition(lambda self: self.making)
    @rule()
    def add(self) -> None:
        entry = Entry(Thing())
        assert self.slots.add(entry) is not self.closed
        self.making -= 1
        if not self.closed:
            self.place(entry)
            with pytest.raises(ValueError, match="there already"):
                self.slots.add(entry)

    @precondition(lambda self: self.making)
    @rule(error=st.sampled_from([None, OSError("refused")]))
    def reject(self, error: OSError | None) -> None:
        told = error is not None and bool(self.waiting)
        assert self.slots.reject(error) is told
        self.making -= 1
        if told:
            waiter = self.waiting.pop(0)
            assert waiter.wait(0) and waiter.error is error and waiter.entry is None

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def hand_over(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.lent))
        wanted = not self.closed and self.size <= self.max_size
        self.lent.remove(entry)
        assert self.slots.hand_over(entry) is wanted
        if wanted:
            self.place(entry)
        else:
            self.slots.remove(entry)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.lent))
        self.lent.remove(entry)
        self.slots.remove(entry)
        assert self.slots.find(entry.value) is None

    @rule(surplus=st.booleans())
    def take_idle(self, surplus: bool) -> None:
        entry = self.slots.take_idle(False, surplus)
        may = self.idle and (not surplus or self.size > self.max_size)
        assert entry is (self.idle.pop(0) if may else None)
        if entry is not None:
            self.slots.remove(entry)

    @precondition(lambda self: not self.closed)
    @rule(least=LIMITS, more=LIMITS)
    def resize(self, least: int, more: int) -> None:
        self.min_size, self.max_size = least, least + more
        self.slots.resize(least, least + more)

    @precondition(lambda self: not self.closed and self.requests > 3)
    @rule()
    def close(self) -> None:
        self.slots.close()
        self.closed = True
        assert all(waiter.wait(0) and waiter.entry is waiter.error is None for waiter in self.waiting)
        self.waiting.clear()

    @invariant()
    def agrees(self) -> None:
        assert self.slots.figures() == {
            "pool_min": self.min_size,
            "pool_max": self.max_size,
            "pool_size": self.size,
            "pool_available": len(self.idle),
            "requests_waiting": len(self.waiting),
            "requests_num": self.requests,
        }
        found = dict(self.slots.snapshot())
        assert found == {**dict.fromkeys(self.idle, True), **dict.fromkeys(self.lent, False)}
        assert not (self.idle and self.waiting)

    def teardown(self) -> None:
        """In a child all is inherited, and no step changes anything."""

        def child() -> tuple[object, ...]:
            before = self.slots.snapshot()
            steps = self.slots.enqueue(Waiter()), self.slots.reserve([]), self.slots.take_idle()
            return self.slots.inherited, steps, self.slots.snapshot() == before

        assert run_in_child(child) == (True, (False, False, None), True)


TestSlots = SlotsMachine.TestCase
TestSlots.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None, database=None)
