"""psycopg2, psycopg and SQLAlchemy on a real PostgreSQL: whatever a child does, its parent keeps its sessions.

See support/driver_matrix.py for what a cell is. All cells of a driver run in one program, at the first test that asks.
"""

from __future__ import annotations

import pytest

from support import drivers
from support.cover import cover
from support.driver_matrix import CELLS, CONTROLS, STATES, Cell, cells_of, damaged, in_this_process, run_matrix
from support.forks import FORKS

DRIVERS = ("psycopg2", "psycopg", "sqlalchemy")
TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


@pytest.mark.parametrize(("driver", "cell"), cells_of(DRIVERS, dict.fromkeys(DRIVERS, CELLS)))
@TLS
def test_cell(postgres, driver, tls, cell):
    """The parent keeps what it has."""
    assert run_matrix(driver, postgres, tls)[cell] == []


@pytest.mark.parametrize(("driver", "cell"), cells_of(DRIVERS, CONTROLS))
@TLS
def test_cell_without_cure(postgres, driver, tls, cell):
    """The control: the parent suffers."""
    wrong = run_matrix(driver, postgres, tls)[cell]
    assert damaged(wrong), wrong


# No pool among the cures: its threads compete for the GIL, after which the child of a C fork may hang.
@cover(fork_name=FORKS, tls=(False, True), cure=("close_on_fork", "resource"), state=STATES, action=("gc", "query"))
def test_every_way_to_fork(postgres, fork, tls, cure, state, action):
    pytest.importorskip("psycopg2")
    driver = drivers.DRIVERS["psycopg2"](postgres, tls)
    assert in_this_process(driver, Cell(cure, state, action), fork) == []
