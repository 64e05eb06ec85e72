"""What taking a connection out of a pool and giving it back costs, next to other pools and to a bare list and a lock.

All pools hand out the same kind of object, which does nothing, and have nothing to reset or check: only the pool is
measured. It has what psycopg_pool asks of a connection, so that pool needs no server either. There are as many
connections as threads, so no thread waits for one.

Peers are measured where they are installed (pip install sqlalchemy psycopg_pool psycopg dbutils).
"""

from __future__ import annotations

import argparse
import contextlib
import threading
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from time import perf_counter_ns
from typing import Any

from benchmarks.contention import LIMIT, run_threads
from benchmarks.measure import EMPTY, Measure, Row, Trial, interleave, loop_trial, make_loop
from benchmarks.report import Report, Table

SUMMARY = "what taking a connection from a pool and giving it back costs"

BARE, SUBJECT = "list and Lock", "forksafe"
THREADS = 4
BARE_GOAL = "<= 3.00"
PEER_GOALS = {"sqlalchemy": "<= 0.10", "psycopg-pool": "<= 0.10", "dbutils": "<= 0.20"}


class Connection:
    """Does nothing, and every pool here can hand it out."""

    closed = False
    threadsafety = 2
    pgconn = types.SimpleNamespace(transaction_status=0)  # idle

    @classmethod
    def connect(cls, *_: object, **__: object) -> Connection:
        return cls()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cursor(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Contender:
    """A pool, and a pass of each kind of use as Python code."""

    names: Mapping[str, Any]
    calls: str
    with_block: str
    close: Callable[[], object] = field(default=lambda: None)


def bare(size: int) -> Contender:
    names = {"lock": threading.Lock(), "idle": [Connection() for _ in range(size)]}
    body = "with lock: conn = idle.pop()\n        with lock: idle.append(conn)"
    return Contender(names, body, body)


def forksafes(size: int) -> Contender:
    import forksafe

    pool = forksafe.ConnectionPool(Connection, max_size=size, reset=None, fds=())
    return Contender({"pool": pool}, "pool.putconn(pool.getconn())", "with pool.connection() as conn: pass", pool.close)


def sqlalchemys(size: int) -> Contender:
    from sqlalchemy.pool import QueuePool

    pool = QueuePool(Connection, pool_size=size, max_overflow=0, reset_on_return=None)
    names = {"pool": pool, "closing": contextlib.closing}
    return Contender(names, "pool.connect().close()", "with closing(pool.connect()) as conn: pass", pool.dispose)


def psycopgs(size: int) -> Contender:
    from psycopg_pool import ConnectionPool

    pool: Any = ConnectionPool(connection_class=Connection, min_size=size, max_size=size, open=True)  # type: ignore[type-var]
    pool.wait()
    return Contender({"pool": pool}, "pool.putconn(pool.getconn())", "with pool.connection() as conn: pass", pool.close)


def dbutils(size: int) -> Contender:
    from dbutils.pooled_db import PooledDB

    creator = types.SimpleNamespace(connect=Connection, threadsafety=2, Error=Exception)
    creator.OperationalError = creator.InterfaceError = creator.InternalError = Exception
    pool = PooledDB(creator, maxcached=size, maxconnections=size, blocking=True, reset=False, ping=0)
    return Contender({"pool": pool}, "pool.connection().close()", "with pool.connection() as conn: pass", pool.close)


MAKERS: dict[str, Callable[[int], Contender]] = {
    BARE: bare,
    SUBJECT: forksafes,
    "sqlalchemy": sqlalchemys,
    "psycopg-pool": psycopgs,
    "dbutils": dbutils,
}
USES = {"getconn(), putconn()": "calls", "with connection()": "with_block"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, help="rounds of the measurements (default: 101, quick: 21)")


def contenders(size: int) -> tuple[dict[str, Contender], list[str]]:
    """Those that are installed, and a description of each peer."""
    found, said = {}, []
    for name, make in MAKERS.items():
        peer = name in PEER_GOALS
        try:
            description = f"{name} {metadata.version(name)}" if peer else name
            found[name] = contender = make(size)
            make_loop(contender.calls, **contender.names)(size)
        except metadata.PackageNotFoundError:
            said.append(f"{name} not installed")
        except Exception as error:  # another project's internals: if they changed, the rest is still measured
            if not peer:
                raise
            found.pop(name, None)
            said.append(f"{description} not measured ({type(error).__name__}: {error})")
        else:
            said += [description] if peer else []
    return found, said


def loops(found: Mapping[str, Contender], use: str) -> dict[str, Callable[[int], int]]:
    return {name: make_loop(getattr(each, USES[use]), **each.names) for name, each in found.items()}


def together(loop: Callable[[int], int], each_ns: int) -> Measure:
    """Nanoseconds for a pass while THREADS threads make as many as one alone makes in each_ns: from the first begin to
    the last end, over all passes."""
    count = max(100, int(each_ns / (min(loop(200) for _ in range(5)) / 200)))

    def measure() -> tuple[float]:
        times: list[int] = []
        begin = threading.Barrier(THREADS)

        def work() -> None:
            begin.wait(LIMIT)
            times.append(perf_counter_ns())
            loop(count)
            times.append(perf_counter_ns())

        run_threads([work] * THREADS)
        return ((max(times) - min(times)) / (THREADS * count),)

    return measure


def trials(
    one: Mapping[str, Contender], many: Mapping[str, Contender], rounds: int, round_ns: int, each_ns: int
) -> list[Trial]:
    made = []
    for use in USES:
        made.append(loop_trial(Row(f"1 thread: {use}", "ns", BARE, BARE_GOAL), loops(one, use), rounds, round_ns))
        runs = {name: together(loop, each_ns) for name, loop in loops(many, use).items()}
        made.append(Trial([Row(f"{THREADS} threads: {use}", "ns", BARE, BARE_GOAL)], runs, max(5, rounds // 4)))
    return made


def run(options: argparse.Namespace) -> Report:
    rounds = options.rounds or (21 if options.quick else 101)
    one, peers = contenders(1)
    many, _ = contenders(THREADS)
    all_trials = trials(one, many, rounds, *((300_000, 10_000_000) if options.quick else (1_000_000, 30_000_000)))
    try:
        interleave(all_trials, options.seed)
    finally:
        for each in (*one.values(), *many.values()):
            each.close()
    rows = [row for trial in all_trials for row in trial.rows]
    tables = [Table("take and give back", rows, list(one))]
    for peer, goal in PEER_GOALS.items():
        if peer in one:
            compared = [Row(row.label, row.unit, peer, goal, row.compare, row.values) for row in rows]
            tables.append(Table(f"against {peer}", compared, [peer, SUBJECT]))
    empty = max(row.overhead for row in rows if EMPTY in row.values)
    notes = [
        "peers: " + ", ".join(peers),
        f"Medians of {rounds} rounds ({THREADS} threads: {max(5, rounds // 4)}). Nothing is reset or checked.",
        f"ns: one pass, without the empty loop's {empty:.1f} ns; with {THREADS} threads, from the first one's begin",
        "to the last one's end, over the passes of all.",
        "SQLAlchemy has no `with`: contextlib.closing() stands for it.",
    ]
    return Report("pool", tables, notes, {"rounds": rounds, "quick": options.quick, "seed": options.seed})
