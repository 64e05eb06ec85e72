"""Participants: weak members by identity, and callbacks around forks."""

from __future__ import annotations

import gc
import os
import sys
import threading

import pytest

import forksafe
from forksafe.atfork import hooks
from forksafe.atfork.participants import Participants
from forksafe.testing import run_in_child
from support.threads import threads


class Member:
    """Equal to all others, and unhashable."""

    def __init__(self, name=""):
        self.name = name
        self.log = []

    def __eq__(self, other):
        return True

    __hash__ = None


@pytest.fixture
def make():
    """make(...): Participants, cleared at the end."""
    made = []

    def do(**options):
        made.append(Participants(**options))
        return made[-1]

    yield do
    for each in made:
        each.clear()


def test_members_by_identity(make):
    members, one, other = make(), Member(), Member()
    members.add(one)
    assert one in members and other not in members
    members.add(other)
    members.add(one)
    assert [id(each) for each in members] == [id(one), id(other)]
    members.discard(one)
    members.discard(one)
    assert one not in members and len(members) == 1
    members.clear()
    assert not members and list(members) == []


def test_members_weak(make):
    members, member = make(), Member()
    members.add(member, value := Member())
    del member, value
    gc.collect()
    assert not members


def test_members_strong(make):
    members = make(strong=True)
    members.add(Member("kept"))
    members.add(7)  # which cannot be referred to weakly
    gc.collect()
    assert [getattr(each, "name", each) for each in members] == ["kept", 7]


def test_members_not_weakly_referable(make):
    members = make()
    with pytest.raises(TypeError, match="weak reference"):
        members.add(7)
    assert not members


def test_value(make):
    members, member = make(), Member()
    members.add(member, "first")
    members.add(member, "second")
    assert members.get(member) == "second" and members.get(Member()) is None


def test_callbacks_at_fork(make):
    """Each callback is called with each member, in the order in which they were added."""
    log = []
    members = make(
        before=lambda member: log.append(f"before {member.name}"),
        after_in_parent=lambda member: log.append(f"parent {member.name}"),
        after_in_child=lambda member: log.append(f"child {member.name}"),
    )
    one, other = Member("one"), Member("other")
    members.add(one)
    members.add(other)
    assert run_in_child(lambda: log) == ["before one", "before other", "child one", "child other"]
    assert log == ["before one", "before other", "parent one", "parent other"]


def test_callbacks_fork_by_c(make, fork, fork_name):
    """In a child that ran no hooks they are called at the first call of forksafe."""
    members, member = make(after_in_child=lambda member: member.log.append(forksafe.generation())), Member()
    members.add(member)
    child = run_in_child(lambda: (forksafe.generation(), member.log), fork=fork)
    assert child == (forksafe.generation() + 1, [forksafe.generation() + 1])
    assert member.log == []


def test_callbacks_together(make):
    """They are called once, with all members, also when there is none left."""
    calls = []
    members, member = make(before=calls.append, together=True), Member()
    members.add(member)
    assert run_in_child(lambda: [each is member for each in calls[0]]) == [True]
    members.discard(member)
    run_in_child(lambda: None)
    assert calls[1:] == [[]]


def test_callback_raises(make, monkeypatch):
    """Each exception is reported, and the other members have their turn, before the fork and in the child."""
    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: reported.append((args.exc_type, args.object)))

    def fail(member):
        member.log.append(1)
        raise ZeroDivisionError if member is one else KeyboardInterrupt

    members, one, other = make(before=fail, after_in_child=fail), Member(), Member()
    members.add(one)
    members.add(other)
    assert run_in_child(lambda: (one.log, other.log, len(reported))) == ([1, 1], [1, 1], 4)
    assert reported == [(ZeroDivisionError, fail), (KeyboardInterrupt, fail)]


def test_callback_changes_members(make):
    members = make(after_in_child=lambda member: members.discard(member))
    kept = [Member(), Member()]
    for each in kept:
        members.add(each)
    assert run_in_child(lambda: len(members)) == 0
    assert len(members) == 2


def test_first_member_registers(make):
    """The first member registers the hooks, clear() unregisters them."""
    registered = hooks._registrations
    members, member = make(before=lambda member: None), Member()
    assert hooks._registrations == registered
    members.add(member)
    members.add(Member())
    assert len(hooks._registrations) == len(registered) + 1
    members.clear()
    assert hooks._registrations == registered
    members.add(member)
    assert len(hooks._registrations) == len(registered) + 1


def test_no_callbacks_no_hooks(make):
    registered = hooks._registrations
    make(strong=True).add(1)
    assert hooks._registrations == registered


def test_fork_while_others_change(make):
    """The child finds the members whole, and calls each that stays."""
    members = make(after_in_child=lambda member: member.log.append(os.getpid()))
    kept = [Member() for _ in range(5)]
    for each in kept:
        members.add(each)
    stop = threading.Event()

    def churn():
        while not stop.is_set():
            members.add(Member())
            members.add(other := Member())
            members.discard(other)
            assert len(list(members)) >= 5

    def child():
        members.add(Member())
        return all(each.log == [os.getpid()] and each in members for each in kept)

    with threads(churn, 3):
        assert [run_in_child(child) for _ in range(20)] == [True] * 20
        stop.set()
