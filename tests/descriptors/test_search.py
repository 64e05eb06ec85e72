"""find(): the descriptors of a value, looked for in what the standard library and users' classes hold."""

from __future__ import annotations

import collections
import logging
import multiprocessing
import os
import queue
import select
import selectors
import socket
import sys
import threading
import weakref
from types import SimpleNamespace

import pytest

import forksafe
from forksafe.descriptors import search, type_plans
from forksafe.descriptors.search import Found, find, flag, walk, warn_unknown
from forksafe_core import atfork
from support.programs import python, succeeds
from support.search import descriptors
from support.threads import threads

# The standard library


def test_sockets_files_pipes_and_selectors(pair, tmp_path):
    read, write = os.pipe()
    with open(read, "rb") as reader, open(write, "w") as writer, (tmp_path / "file").open("w") as file:
        assert find(pair[0]).descriptors == (pair[0].fileno(),)
        assert [find(each).descriptors for each in (reader, writer, file)] == [(read,), (write,), (file.fileno(),)]
    here, there = multiprocessing.Pipe()
    with here, there, selectors.DefaultSelector() as selector:
        assert descriptors([here, there]) == {here.fileno(), there.fileno()}
        selector.register(pair[0], selectors.EVENT_READ)
        if hasattr(selector, "fileno"):
            assert find(selector).descriptors == (selector.fileno(),)
    with selectors.SelectSelector() as selector:
        selector.register(pair[0], selectors.EVENT_READ)
        assert find(selector).descriptors == ()  # what is registered there is others'


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="there is no epoll here")
def test_epoll():
    with select.epoll() as epoll:
        assert find(epoll).descriptors == (epoll.fileno(),)


def test_what_is_closed_gives_nothing(pair, tmp_path):
    pair[0].close()
    with (tmp_path / "file").open("w") as file:
        pass
    selector = selectors.DefaultSelector()
    selector.close()
    for value in (pair[0], file, selector, [pair[0], file]):
        assert find(value) == Found()


def test_containers_attributes_slots(pair):
    """They are looked into."""

    class Slotted:
        __slots__ = ("other", "unset")

    class Below(Slotted):
        pass

    holder = Below()
    holder.other = holder.dict = {"a": (1, [{pair[0]}, frozenset([pair[1]])])}
    numbers = {each.fileno() for each in pair}
    line = queue.LifoQueue()
    line.put(pair[0])
    for value in (
        holder, [holder], collections.deque(pair), {pair[0]: 1, "b": pair[1]}, SimpleNamespace(a=pair),
        collections.OrderedDict(a=pair[0], b=pair[1]), selectors.SelectorKey(pair[0], 0, 0, pair[1]),
        [line, pair[1]], collections.defaultdict(list, x=list(pair)),
    ):  # fmt: skip
        assert descriptors(value) == numbers
    local, ours = threading.local(), forksafe.local()
    local.sock, ours.sock = pair
    assert descriptors([local, ours]) == numbers


def test_nearest_first_and_each_once(pair):
    assert find([{"deep": [pair[0]]}, pair[1], pair[1]]).descriptors == (pair[1].fileno(), pair[0].fileno())


def test_what_is_others_is_not_walked(pair):
    handler = logging.StreamHandler(pair[0].makefile("w"))
    thread = threading.Thread(target=print, args=pair)
    holder = SimpleNamespace(
        handler=handler, logger=logging.getLogger("x"), thread=thread, weak=weakref.ref(pair[0]), module=socket,
        function=lambda: pair, method=pair[0].send, cls=type("Holder", (), {"sock": pair[0]}), frame=sys._getframe(),
        out=sys.__stdout__, err=sys.__stderr__,
    )  # fmt: skip
    assert find(holder) == Found()
    assert find(sys.__stderr__).descriptors == (2,)  # it was asked for


def test_odd_objects_do_no_harm(pair):
    called = []

    class Odd:
        def __init__(self):
            self.sock = pair[0]

        def __getattribute__(self, name):
            called.append(name)
            raise RuntimeError(name)

        __hash__ = __eq__ = __len__ = __iter__ = __bool__ = __repr__ = __getattribute__

        @property
        def boom(self):
            raise AssertionError

    class Lies(list):
        def __iter__(self):
            raise AssertionError

    class Hash(type):
        def __hash__(cls):
            raise RuntimeError

    class Fileno:
        def fileno(self):
            return self.value

        value = "three"

    class Raises(Fileno):
        def fileno(self):
            raise KeyError

    for odd in (Odd(), Lies([pair[0]])):
        assert find([odd]).descriptors == (pair[0].fileno(),)
    for odd in (Hash("Odd", (), {})(), Fileno(), Raises(), type("Minus", (Fileno,), {"value": -1})()):
        assert find(odd) == Found()
        assert find([odd, pair[0]]).descriptors == (pair[0].fileno(),)
    assert not called


def test_cycles_and_too_much(pair):
    cycle = [pair[0]]
    cycle.append(cycle)
    assert descriptors(cycle) == {pair[0].fileno()}
    wide = find([[] for _ in range(search.MOST_OBJECTS + 1)])
    deep = value = []
    for _ in range(search.MOST_DEEP + 1):
        value.append([])
        value = value[0]
    value.append(pair[0])
    for found in (wide, find(deep)):
        assert found == Found(unknown=True, cut_short=True)
    assert find([pair[0], *[[] for _ in range(search.MOST_OBJECTS)]]) == Found((pair[0].fileno(),), cut_short=True)


def test_while_other_threads_change_it(pair):
    shared, stop = {"sock": pair[0]}, threading.Event()

    def change():
        number = 0
        while not stop.is_set():
            number += 1
            shared[number] = [number]
            shared.pop(number - 50, None)

    with threads(change, 2):
        for _ in range(200):
            assert pair[0].fileno() in find(shared).descriptors
        stop.set()


def test_walk_objects(pair):
    """What was looked at, nearest first; what find() returns keeps none of it alive."""
    inner, outer = [pair[0]], {"inner": None}
    outer["inner"] = inner
    found = walk(outer)
    assert [id(each) for each in found.objects] == [id(outer), id(inner), id(pair[0])]
    assert found == find(outer) == Found((pair[0].fileno(),))
    assert find(outer).objects == ()


# The extension point


def test_register_finder(pair, forget_finders):
    class Driver:
        __module__ = "driver.of.somebody"
        __qualname__ = "Driver"

        def close(self):
            pass

    class Special(Driver):
        pass

    drivers = [Driver(), Special()]
    assert all(find(each).unknown for each in drivers)
    forksafe.register_finder("driver.of.somebody.Driver", lambda driver: [pair[0].fileno(), {"further": pair[1]}])
    numbers = {each.fileno() for each in pair}
    assert [descriptors(each) for each in drivers] == [numbers] * 2
    forksafe.register_finder(Special, lambda driver: ())
    assert [descriptors(each) for each in drivers] == [numbers, set()]

    def broken(driver):
        raise ValueError

    forksafe.register_finder(Special, broken)
    assert find(drivers[1]) == Found(opaque=(drivers[1],), unknown=True)
    assert find(drivers).descriptors == find(drivers[0]).descriptors


def test_register_finder_with_bad_input():
    for bad in ("Connection", "", "a..b", "a.1"):
        with pytest.raises(ValueError, match="a class or its dotted name"):
            forksafe.register_finder(bad, print)
    with pytest.raises(TypeError, match="a class or its dotted name first, not 3"):
        forksafe.register_finder(3, print)
    with pytest.raises(TypeError, match="takes a callable second"):
        forksafe.register_finder(dict, 3)
    assert dict not in type_plans._finders


def test_nothing_is_imported():
    program = "import sys; from forksafe.descriptors.search import find; find([object()]); print(*sys.modules)"
    loaded = {name.partition(".")[0] for name in succeeds(python("-c", program)).split()}
    assert loaded.isdisjoint({"sqlite3", "asyncio", "ssl", "requests", "redis", "httpx", "psycopg", "logging"})


# flag() and warn_unknown()


def test_flag(pair):
    closed = socket.socket()
    number = closed.fileno()
    closed.close()
    found = flag([*pair, closed])
    assert found.descriptors == tuple(each.fileno() for each in pair)
    assert all(map(atfork.is_flagged, found.descriptors))
    assert flag("a value", fds=[number]).descriptors == ()
    assert flag("a value", fds=lambda value: pair[0].fileno()).descriptors == (pair[0].fileno(),)
    assert flag("a value", fds=[pair[1], pair[0].fileno()]).descriptors == (pair[1].fileno(), pair[0].fileno())
    assert flag(pair[0], fds=()) == Found()
    for bad in (lambda value: None, ["three"], [None], 3.5):
        with pytest.raises(TypeError, match="fds= gives descriptors"):
            flag("a value", fds=bad)


def test_warn_unknown_once_for_each_type():
    class Unknown:
        def close(self):
            pass

    class Another(Unknown):
        pass

    for cls in (Unknown, Another):
        value = cls()
        with pytest.warns(
            forksafe.UnknownDescriptorsWarning, match=rf"pool x: its value is a .*{cls.__name__}"
        ) as caught:
            warn_unknown(value, "pool x", find(value), stacklevel=2)
        assert caught[0].filename == __file__ and "fds=" in str(caught[0].message)
        warn_unknown(cls(), "pool y", find(value))  # an error in these tests, if it warned again


def test_what_has_a_fileno_is_not_walked(pair):
    class Both:
        def __init__(self):
            self.inner = pair[1]

        def fileno(self):
            return pair[0].fileno()

    assert descriptors(Both()) == {pair[0].fileno()}
