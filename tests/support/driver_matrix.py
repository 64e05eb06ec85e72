"""What a child does with a connection that its parent has: every cell of a matrix, for one driver; not a test itself.

Guarantees: a cell is a cure, a state of the parent and an action of the child. The parent connects, forks, and waits
for the child's end; the child acts on what it inherited, then connects for itself and works, then ends as programs do:
through the interpreter's finalisation. After that the parent's session, its transaction and its data must be as if
there had been no child, and the child's own must be there. A cell gives the list of what was not so.

All cells of a driver run in one fresh interpreter, one after the other, each with connections of its own. Those
without a cure run in a process of their own each, which may hang or die of it: that is what they are to show.
"""

from __future__ import annotations

import faulthandler
import functools
import gc
import importlib.util
import itertools
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass
from itertools import product
from typing import Any

import forksafe
from forksafe.testing import _kill, _reap, run_in_child
from support import drivers, server_addresses

CURES = ("close_on_fork", "resource", "pool")
STATES = ("idle", "checked out", "in transaction")
ACTIONS = ("exit", "gc", "close", "query", "rollback")
TIME = 20  # seconds for a cell, and for its child
CONTROL_TIME = 3.0  # after the other cells, for those that hang
_numbers = itertools.count()
FIRST = f"before all else, {os.getpid()}"


@dataclass(frozen=True)
class Cell:
    cure: str
    state: str
    action: str

    def __str__(self) -> str:
        return f"{self.cure}, {self.state}, {self.action}"


CELLS = [Cell(*each) for each in product(CURES, STATES, ACTIONS)]

# What surely damages the parent without a cure. The rest is harmless in the drivers that look at the process's id
# before they speak, as psycopg and redis do when they are collected or closed, or had nothing to say.
HALF, OPEN = "checked out", "in transaction"
_USUAL = [*product(STATES, ("close", "query")), (HALF, "rollback"), (OPEN, "rollback")]
_HARMS = {
    "psycopg2": _USUAL,
    "psycopg": _USUAL,
    "sqlalchemy": [*_USUAL, (HALF, "gc"), (OPEN, "gc")],
    "pymysql": [*_USUAL, (HALF, "exit"), (HALF, "gc")],
    "MySQLdb": list(product(STATES, ACTIONS)),
    "redis": [*product(STATES, ("query",)), (OPEN, "rollback")],
}
CONTROLS = {driver: [Cell("no cure", *each) for each in harms] for driver, harms in _HARMS.items()}


NEEDS = {"sqlalchemy": ("psycopg2",)}  # what a driver is used with here


def cells_of(names: Iterable[str], cells: dict[str, list[Cell]]) -> list[Any]:
    """To parametrize a test with: drivers and their cells. One that is not installed is skipped once, not per cell."""
    import pytest  # here: the programs that run the cells do without

    found = []
    for driver in names:
        missing = [each for each in (driver, *NEEDS.get(driver, ())) if importlib.util.find_spec(each) is None]
        if missing:
            why = f"{missing[0]} is not installed: {len(cells[driver])} cells are not tested"
            found.append(pytest.param(driver, None, marks=pytest.mark.skip(reason=why), id=driver))
        else:
            found += [pytest.param(driver, cell, id=f"{driver}-{cell}") for cell in cells[driver]]
    return found


@functools.cache
def run_matrix(driver: str, server: Any, tls: bool) -> dict[Cell, list[str]]:
    """What went wrong in each cell. What the program itself ran into counts for the cells it did not come to."""
    from support.programs import path_with_tests, python

    task = json.dumps({"driver": driver, "kind": type(server).__name__, "server": asdict(server), "tls": tls})
    no_authorities = {"SSL_CERT_FILE": os.devnull}  # reading them takes longer than all else a connection does
    done = python(
        "-W", "ignore", "-m", "support.driver_matrix", task, timeout=100, env={**path_with_tests(), **no_authorities}
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    results = {Cell(*line["cell"]): list(line["wrong"]) for line in lines}
    errors = f"the errors of the whole program, which ended with status {done.returncode}:\n{done.stderr[-8000:]}"
    for cell in (*CELLS, *CONTROLS[driver]):
        if results.setdefault(cell, ["the program did not get here"]):
            results[cell].append(errors)
    return results


def damaged(wrong: list[str]) -> bool:
    """Did the parent suffer? That the child fails is no damage to the parent."""
    of_parents = (
        "the parent",
        "the rest of",
        "what the parent",
        "the child's query",
        "what the child wrote on the inh",
    )
    return any(each.startswith(of_parents) for each in wrong)


class Parent:
    """The parent's side of a cell, and what its child inherits."""

    def __init__(self, driver: Any, cell: Cell) -> None:
        self.driver, self.cell = driver, cell
        self.name = f"{cell}, {os.getpid()}, {next(_numbers)}"
        self.connect = driver.connect
        self.give_back = driver.close
        if cell.cure == "resource":
            self.connect = forksafe.resource(driver.connect, close=driver.close)
            self.give_back = lambda _: self.connect.close()
        if cell.cure == "pool":
            pool = forksafe.ConnectionPool(driver.connect, min_size=0, max_size=1, close=driver.close)
            self.connect, self.give_back = pool.getconn, pool.putconn
        self.connection = self.connect()
        if cell.cure == "close_on_fork":
            forksafe.close_on_fork(driver.descriptor(self.connection))
        self.session = driver.session(self.connection)
        self.cursor: Any = None
        if cell.state == "checked out":
            self.cursor = driver.half_use(self.connection)
        elif cell.state == "in transaction":
            driver.begin(self.connection, self.name)
        elif cell.cure == "pool":
            self.give_back(self.connection)

    def go_on(self, stray_is_own: bool) -> Iterator[str]:
        """Bring the parent's work to its end; gives what was not as it must be."""
        driver = self.driver
        if self.cell.cure == "pool" and self.cell.state == "idle":
            self.connection = self.connect()
        if self.cell.state == "checked out" and not driver.use_rest(self.connection, self.cursor):
            yield "the rest of the parent's result is wrong"
        self.cursor = None
        if self.cell.state != "in transaction":
            driver.begin(self.connection, self.name)
        driver.commit(self.connection)
        if driver.session(self.connection) != self.session:
            yield "the parent's session is another one"
        third = driver.connect()
        if not driver.noted(third, self.name):
            yield "what the parent wrote and committed is not there"
        if not driver.noted(third, f"{self.name}, its child"):
            yield "what the child wrote on a connection of its own is not there"
        if driver.noted(third, f"{self.name}, stray") and not stray_is_own:
            yield "what the child wrote on the inherited connection is there"
        driver.close(third)
        self.give_back(self.connection)


class Child:
    """The child's side of a cell."""

    def __init__(self, parent: Parent) -> None:
        self.parent, self.driver = parent, parent.driver
        self.stray_is_own = False
        self.wrong: list[str] = []

    def act(self) -> None:
        """On what was inherited, which may fail."""
        parent, driver, action = self.parent, self.driver, self.parent.cell.action
        try:
            if action == "gc":
                parent.connection = parent.cursor = None
                gc.collect()
            elif action == "close":
                driver.close(parent.connection)
            elif action == "rollback":
                driver.rollback(parent.connection)
            elif action == "query":  # a client may answer it with a new connection: then it is the child's own
                self.stray_is_own = driver.query(parent.connection, f"{parent.name}, stray") != parent.session
                if not self.stray_is_own:
                    self.wrong.append("the child's query ran in the parent's session")
        except Exception:
            pass

    def work(self) -> None:
        """On a connection of its own, which must succeed."""
        parent, driver = self.parent, self.driver
        connection = parent.connect()
        if driver.session(connection) == parent.session:
            self.wrong.append("the child's connection is in the parent's session")
        driver.note(connection, f"{parent.name}, its child")
        if not driver.noted(connection, FIRST):
            self.wrong.append("the child does not see what is there")
        if driver.noted(connection, parent.name):
            self.wrong.append("the child sees what the parent has not committed")
        if parent.cell.cure == "pool":
            parent.give_back(connection)


def in_this_process(driver: Any, cell: Cell, fork: Any) -> list[str]:
    """A cell whose child ends by os._exit(), with any way to fork."""
    prepare(driver)
    parent = Parent(driver, cell)

    def be_the_child() -> tuple[list[str], bool]:
        forksafe.generation()  # where no handler ran, forksafe learns of the fork by the first call of it
        child = Child(parent)
        child.act()
        child.work()
        return child.wrong, child.stray_is_own

    wrong, stray_is_own = run_in_child(be_the_child, TIME, fork=fork)
    return [*wrong, *parent.go_on(stray_is_own)]


def run_cell(driver: Any, cell: Cell) -> list[str]:
    """What went wrong. In the child it does not return: it raises SystemExit, for the interpreter to end as usual."""
    signal.alarm(2 * TIME)
    parent = Parent(driver, cell)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(TIME - 1)
        child = Child(parent)
        child.act()
        child.work()
        os.write(write_end, json.dumps([child.wrong, child.stray_is_own]).encode())
        sys.exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        report = pipe.read()  # until the child has ended
    status = _reap(pid, 5)
    if status is None:
        _kill(pid)
    if status != 0 or not report:
        return [f"the child {'hung' if status is None else f'ended with status {status}'}", *parent.go_on(False)]
    wrong, stray_is_own = json.loads(report)
    return [*wrong, *parent.go_on(stray_is_own)]


def attempt(driver: Any, cell: Cell) -> None:
    try:
        wrong = run_cell(driver, cell)
    except Exception as error:
        traceback.print_exc()
        wrong = [f"the parent's {type(error).__name__}: {error}"]
    report(cell, wrong)


def report(cell: Cell, wrong: list[str]) -> None:
    print(json.dumps({"cell": astuple(cell), "wrong": wrong}), flush=True)


def start_controls(driver: Any, cells: list[Cell]) -> dict[int, Cell]:
    """Each in a process of its own, all at once."""
    pids = {}
    for cell in cells:
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            attempt(driver, cell)
            os._exit(0)
        pids[pid] = cell
    return pids


def end_controls(pids: dict[int, Cell]) -> None:
    deadline = time.monotonic() + CONTROL_TIME
    for pid, cell in pids.items():
        if _reap(pid, deadline - time.monotonic()) is None:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            report(cell, ["the parent hung"])


def prepare(driver: Any) -> None:
    """What the server must have before a cell is run, by this process or a child of it."""
    connection = driver.connect()
    driver.prepare(connection)
    if not driver.noted(connection, FIRST):
        driver.note(connection, FIRST)
    driver.close(connection)


def main() -> None:
    task = json.loads(sys.argv[1])
    server = getattr(server_addresses, task["kind"])(**task["server"])
    driver = drivers.DRIVERS[task["driver"]](server, task["tls"])
    prepare(driver)
    gc.freeze()  # what was imported need not be gone through in every child
    controls = start_controls(driver, CONTROLS[task["driver"]])
    for cell in CELLS:
        attempt(driver, cell)
    end_controls(controls)


if __name__ == "__main__":
    # Whoever hangs ends by SIGALRM, after its stacks. Not dump_traceback_later(): it cannot be called again in a child.
    faulthandler.register(signal.SIGALRM, chain=True)
    main()
