"""@resource: one value for each process, made at first use; a child never touches its parent's."""

from __future__ import annotations

import functools
import gc
import os
import pickle
import socket
import sys
import threading
import warnings

import pytest
from conftest import HANDLERS_RUN, threads
from sessions import Client, serving

import forksafe
from forksafe.testing import run_in_child


@pytest.fixture(scope="module")
def server():
    with serving() as running:
        yield running


@pytest.fixture
def connect(server):
    def connect():
        return Client(server.port)

    return connect


@pytest.fixture
def db(connect):
    db = forksafe.resource(connect, close=Client.close)
    yield db
    db.close()


def test_made_at_first_use_and_once(db):
    assert not db.made
    value = db()
    assert db.made and db() is value and db() is value


def test_a_child_makes_its_own(db, fork):
    mine = db().session

    def child():
        first = db().session
        return first, db().session, db.made

    first, again, made = run_in_child(child, fork=fork)
    assert first == again != mine and made
    assert db().session == mine


def test_control_a_plain_global_is_shared(connect, fork):
    client = connect()
    mine = client.session
    assert run_in_child(lambda: client.session, fork=fork) == mine  # the child talks in its parent's session
    client.close()


def test_collecting_the_value_in_a_child_leaves_the_parents_session(db, fork):
    mine = db().session
    kept = [db()]

    def child():
        db()
        kept.clear()
        gc.collect()
        db.close()
        return True

    assert run_in_child(child, fork=fork)
    assert db().session == mine


def test_control_collecting_a_plain_value_ends_the_parents_session(connect, fork):
    kept = [connect()]

    def child():
        kept.clear()
        gc.collect()
        return True

    assert run_in_child(child, fork=fork)
    with pytest.raises(OSError):  # noqa: PT011  # reset, or broken pipe, or end of file
        kept[0].ask()


def test_control_lru_cache_hands_the_parents_connection_to_the_child(connect):
    cached = functools.lru_cache(connect)
    mine = cached().session
    assert run_in_child(lambda: cached().session) == mine


def test_what_the_child_inherits_is_dead_before_any_python_runs(db, fork, fork_name):
    client = db()

    def child():
        if fork_name not in HANDLERS_RUN:
            forksafe.generation()
        with pytest.raises(OSError, match=r"Broken pipe|closed this session"):
            client.ask()
        return client.sock.recv(10), forksafe.generation()

    assert run_in_child(child, fork=fork) == (b"", forksafe.generation() + 1)
    assert client.ask("still") == f"{client.session} still"


def test_nested_forks(db):
    mine = db().session

    def child():
        ours = db().session
        theirs = run_in_child(lambda: (run_in_child(lambda: db().session), db().session))
        return ours, *theirs, db().session

    ours, grandchild, great, again = run_in_child(child, 30)
    assert len({mine, ours, grandchild, great}) == 4 and again == ours
    assert db().session == mine


def test_not_made_before_the_fork(db, fork):
    theirs = run_in_child(lambda: db().session, fork=fork)
    assert not db.made
    assert db().session != theirs


def test_threads_that_race_make_one(connect):
    made = []
    started = threading.Barrier(8)

    def maker():
        made.append(connect())
        return made[-1]

    db = forksafe.resource(maker)
    got = []

    def ask():
        started.wait(10)
        got.append(db())

    with threads(ask, 8):
        pass
    assert len(made) == 1 and len(got) == 8 and set(map(id, got)) == {id(made[0])}


def test_while_one_makes_the_others_wait(connect):
    inside, go, made = threading.Event(), threading.Event(), []

    def maker():
        made.append(1)
        inside.set()
        assert go.wait(10)
        return connect()

    db = forksafe.resource(maker)
    got = []
    with threads(lambda: got.append(db()), 4):
        assert inside.wait(10)
        go.set()
    assert made == [1] and len(set(map(id, got))) == 1


def test_control_lru_cache_makes_one_for_each(connect):
    both = threading.Barrier(2)

    @functools.lru_cache
    def cached():
        both.wait(10)  # reached by two threads, since nothing keeps the second out
        return connect()

    got = []
    with threads(lambda: got.append(cached()), 2):
        pass
    assert got[0] is not got[1]


def test_threads_of_a_child_race_too(db):
    mine = db().session

    def child():
        got = []
        with threads(lambda: got.append(db()), 8):
            pass
        return len(got), len(set(map(id, got))), got[0].session

    asked, values, theirs = run_in_child(child)
    assert (asked, values) == (8, 1) and theirs != mine


def test_an_error_is_not_kept(connect):
    errors = [ValueError("first"), OSError("second")]

    def maker():
        if errors:
            raise errors.pop(0)
        return connect()

    db = forksafe.resource(maker)
    with pytest.raises(ValueError, match="first"):
        db()
    assert not db.made
    with pytest.raises(OSError, match="second"):
        db()
    assert db().ask().endswith("who")


def test_a_thread_that_waited_tries_after_anothers_error(connect):
    inside, go = threading.Event(), threading.Event()
    calls = []

    def maker():
        calls.append(threading.current_thread())
        if len(calls) == 1:
            inside.set()
            assert go.wait(10)
            raise ValueError("the first fails")
        return connect()

    db = forksafe.resource(maker)
    results = []

    def ask():
        try:
            results.append(db())
        except ValueError as error:
            results.append(error)

    with threads(ask, 1):
        assert inside.wait(10)
        with threads(ask, 1):
            go.set()
    assert [type(each) for each in results] in ([ValueError, Client], [Client, ValueError])
    assert calls[0] is not calls[1]


def test_a_maker_that_asks_for_its_own_value(connect):
    def maker():
        return db()

    db = forksafe.resource(maker)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"maker\(\) asks for its own value while it makes it"):
            db()
    each = forksafe.resource(lambda: each(), per_thread=True)
    with pytest.raises(RuntimeError, match="asks for its own value"):
        each()


def test_a_fork_while_another_thread_makes(connect, busy, fork):
    inside, go = threading.Event(), threading.Event()
    parent = os.getpid()

    def maker():
        client = connect()
        if os.getpid() == parent:
            inside.set()
            assert go.wait(30)
        return client

    db = forksafe.resource(maker, close=Client.close)
    with threads(lambda: db(), 1):
        try:
            assert inside.wait(10)
            theirs = run_in_child(lambda: (db().session, db.made), fork=fork)
        finally:
            go.set()
    assert theirs[1] and db().session != theirs[0]
    db.close()


def test_a_maker_that_forks(connect, fork):
    """The child that comes out of the maker may not have what was begun in the parent."""

    def comes_out():
        pid = -1

        def maker():
            nonlocal pid
            client = connect()
            client.ask()
            pid = fork()
            return client

        db = forksafe.resource(maker, close=Client.close)
        try:
            client = db()
        except BaseException as error:
            if pid == 0:
                ok = isinstance(error, forksafe.InheritedResourceError) and "forked while it made" in str(error)
                os._exit(0 if ok and not db.made else 3)
            raise
        if pid == 0:
            os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert client.ask("alive").endswith("alive")
        db.close()
        return True

    assert run_in_child(comes_out, 20)  # in a child, so that one that escapes is not a second test session


def test_a_child_made_in_the_maker_may_ask_for_its_own(connect, fork):
    parent = os.getpid()
    theirs = []

    def maker():
        if os.getpid() == parent and not theirs:
            theirs.append(run_in_child(lambda: db().session, fork=fork))
        return connect()

    db = forksafe.resource(maker, close=Client.close)
    assert db().session != theirs[0]
    db.close()


def test_close_ends_it_and_the_next_call_makes_another(db):
    first = db()
    number = first.session
    db.close()
    assert first.sock.fileno() == -1 and not db.made
    db.close()
    assert db().session != number


def test_close_raises_what_the_clean_up_raises(connect):
    def refuse(client):
        client.close()
        raise ValueError("cannot")

    db = forksafe.resource(connect, close=refuse)
    first = db()
    with pytest.raises(ValueError, match="cannot"):
        db.close()
    assert not db.made
    assert db() is not first
    with pytest.raises(ValueError, match="cannot"):
        db.close()


def test_generator(connect, fork):
    ended = []

    @forksafe.resource
    def db():
        client = connect()
        try:
            yield client
        finally:
            ended.append(os.getpid())
            client.close()

    mine = db().session
    assert run_in_child(lambda: (db().session != mine, ended), fork=fork) == (True, [])
    assert db().session == mine
    db.close()
    assert ended == [os.getpid()]


def test_generators_that_yield_never_or_twice():
    @forksafe.resource
    def never():
        return
        yield

    @forksafe.resource
    def twice():
        yield 1
        yield 2

    with pytest.raises(RuntimeError, match="yielded nothing"):
        never()
    assert twice() == 1
    with pytest.raises(RuntimeError, match="yielded a second time"):
        twice.close()
    assert not twice.made


def test_classes_partials_and_methods_as_makers(server):
    class Owner:
        def __init__(self):
            self.db = forksafe.resource(self.connect)

        def connect(self):
            return Client(server.port)

    assert forksafe.resource(functools.partial(Client, server.port))().ask() != ""
    assert Owner().db().ask() != ""
    assert forksafe.resource(dict)() == {}

    class Factory:
        """In a class body a maker without arguments is as good as in a module."""

        db = forksafe.resource(functools.partial(Client, server.port))

    assert Factory().db() is Factory.db()


def named():
    """Makes a number."""
    return 3


decorated = forksafe.resource(named)
decorated.__qualname__ = "decorated"


def test_looks_like_the_function():
    db = forksafe.resource(named)
    assert (db.__name__, db.__doc__, db.__wrapped__, db.__module__) == ("named", "Makes a number.", named, __name__)
    assert repr(db) == "<forksafe.resource named(), not made>"
    assert db() == 3 and repr(db) == "<forksafe.resource named(), made>"
    assert isinstance(db, forksafe.Resource)


def test_pickled_by_name_as_functions_are():
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    with pytest.raises(pickle.PicklingError):
        pickle.dumps(forksafe.resource(named))


def test_bad_input(connect):
    async def later():
        return connect()

    async def later_generator():
        yield connect()

    def generator():
        yield connect()

    for maker in (later, later_generator, functools.partial(later)):
        with pytest.raises(TypeError, match="this one is async"):
            forksafe.resource(maker)
    with pytest.raises(TypeError, match="returned a coroutine"):
        forksafe.resource(lambda: later())()
    with pytest.raises(TypeError, match="takes a callable that makes a value, not 3"):
        forksafe.resource(3)
    with pytest.raises(TypeError, match=r"without required arguments \(missing a required argument: 'self'\).*partial"):

        class Owner:
            @forksafe.resource
            def db(self):
                return connect()

    with pytest.raises(TypeError, match="takes a callable that is given the value, not 3"):
        forksafe.resource(connect, close=3)
    with pytest.raises(TypeError, match="clean up after its yield"):
        forksafe.resource(generator, close=print)
    with pytest.raises(TypeError, match=r"fds=.*not 3"):
        forksafe.resource(connect, fds=3)
    with pytest.raises(ValueError, match="'discard', 'transfer' or 'raise', not 'keep'"):
        forksafe.resource(connect, on_fork="keep")
    with pytest.raises(ValueError, match="cannot transfer"):
        forksafe.resource(connect, on_fork="transfer", per_thread=True)


def test_on_fork_raise(connect, fork):
    db = forksafe.resource(connect, close=Client.close, on_fork="raise")
    client = db()
    mine = client.session

    def refused():
        with pytest.raises(forksafe.InheritedResourceError):
            db()
        return True

    def child():
        for _ in range(2):
            with pytest.raises(forksafe.InheritedResourceError, match="belongs to the process that made it"):
                db()
        with pytest.raises(OSError, match=r"Broken pipe|closed this session"):
            client.ask()
        return run_in_child(refused)

    assert run_in_child(child, 20, fork=fork)
    assert db().session == mine
    db.close()


def test_on_fork_raise_when_nothing_was_inherited(connect, fork):
    db = forksafe.resource(connect, on_fork="raise")
    assert run_in_child(lambda: db().ask() != "", fork=fork)


class Hidden:
    """A connection that keeps its descriptor where nobody can see it."""

    def __init__(self, port):
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.send = lambda data: sock.send(data)
        self.fileno_of = lambda: sock.fileno()
        self.end = lambda: sock.close()

    def close(self):
        pass

    def __del__(self):
        self.end()


def test_descriptors_that_are_not_found_are_warned_about_once(server):
    class Unknown(Hidden):
        pass

    def maker():
        return Unknown(server.port)

    with pytest.warns(forksafe.UnknownDescriptorsWarning, match=r"resource .*maker\(\).*Unknown.*fds=lambda") as caught:
        forksafe.resource(maker)()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forksafe.resource(maker)()  # of this type it has been said


def test_a_warning_turned_into_an_error_leaves_nothing_behind(server):
    class Unheard(Hidden):
        closed = 0

        def close(self):
            Unheard.closed += 1

    db = forksafe.resource(lambda: Unheard(server.port), close=lambda value: value.close())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(forksafe.UnknownDescriptorsWarning):
            db()
    assert not db.made and Unheard.closed == 1


def test_fds_says_where_they_are(server, fork, fork_name):
    class Told(Hidden):
        pass

    db = forksafe.resource(lambda: Told(server.port), fds=lambda value: value.fileno_of())
    value = db()

    def child():
        if fork_name not in HANDLERS_RUN:
            forksafe.generation()
        with pytest.raises(BrokenPipeError):
            value.send(b"x")
        return db() is not value

    assert run_in_child(child, fork=fork)
    assert forksafe.resource(lambda: Told(server.port), fds=lambda value: [value.fileno_of()])() is not None
    with pytest.raises(TypeError, match="fds= gives descriptors"):
        forksafe.resource(lambda: Told(server.port), fds=lambda value: 1.5)()


def test_fds_none_says_that_there_are_none(server):
    class Nothing(Hidden):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        forksafe.resource(lambda: Nothing(server.port), fds=())()


def test_values_without_a_connection_are_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in (dict, int, list, threading.Lock, lambda: {"a": [1, 2]}, object):
            assert forksafe.resource(make)() is not None


def test_a_socket_opened_after_the_value_was_made(server, fork_name, fork):
    """As requests.Session and redis.Redis do: what they have is looked for again before the fork."""

    class Late:
        client = None

    late = forksafe.resource(Late)
    late().client = Client(server.port)
    mine = late().client.session
    inherited = late()

    def child():
        if fork_name not in HANDLERS_RUN:
            forksafe.generation()
        try:
            inherited.client.ask()
        except OSError:
            return "dead"
        return "shared"

    # No hook runs before a fork made by C; there the connection is found at the next one that Python makes.
    assert run_in_child(child, fork=fork) == ("dead" if fork_name == "os.fork" else "shared")
    if fork_name != "os.fork":
        assert run_in_child(child) == "dead"
        assert run_in_child(child, fork=fork) == "dead"
    if fork_name == "os.fork":
        assert late().client.session == mine


def test_fds_that_raise_at_a_fork_do_not_stop_it(server, monkeypatch):
    reported, calls = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: reported.append(str(unraisable.exc_value)))

    def fds(client):
        calls.append(client)
        if len(calls) > 1:
            raise ValueError("not now")
        return client.sock

    def dead():
        with pytest.raises(OSError, match=r"Broken pipe|closed this session"):
            client.ask()
        return True

    db = forksafe.resource(lambda: Client(server.port), close=Client.close, fds=lambda client: [fds(client)])
    client = db()
    assert run_in_child(dead)
    assert reported == ["not now"]
    db.close()


def test_a_regular_file_is_let_go_once_it_is_closed(tmp_path):
    path = tmp_path / "data"
    path.write_text("text")
    opened = forksafe.resource(lambda: path.open(), close=lambda file: file.close())
    number = opened().fileno()
    opened.close()
    with path.open() as file:
        assert file.fileno() == number
        assert run_in_child(file.read) == "text"


def test_dropping_a_resource_cleans_its_value_up(connect):
    db = forksafe.resource(connect, close=Client.close)
    client = db()
    del db
    gc.collect()
    assert client.sock.fileno() == -1


def test_dropping_a_resource_in_a_child_does_not(connect, fork):
    holder = [forksafe.resource(connect, close=Client.close)]
    client = holder[0]()

    def child():
        holder.clear()
        gc.collect()
        return client.sock.fileno() >= 0

    assert run_in_child(child, fork=fork)
    assert client.ask("alive").endswith("alive")


def test_a_value_made_anew_during_its_own_clean_up(connect):
    made = []

    def maker():
        made.append(connect())
        return made[-1]

    def clean_up(client):
        client.close()
        if len(made) == 1:
            db()

    db = forksafe.resource(maker, close=clean_up)
    db()
    db.close()
    assert db.made and db() is made[1]
    db.close()
    assert not db.made


def test_a_fork_during_the_clean_up(connect, busy, fork):
    inside, go = threading.Event(), threading.Event()

    def clean_up(client):
        inside.set()
        assert go.wait(30)
        client.close()

    db = forksafe.resource(connect, close=clean_up)
    client = db()
    with threads(db.close, 1):
        try:
            assert inside.wait(10)
            assert run_in_child(lambda: (db().session > 0, client.sock.fileno() >= 0), fork=fork) == (True, True)
            assert client.ask("alive").endswith("alive")
        finally:
            go.set()
    assert not db.made
