"""PyMySQL and mysqlclient on a real MariaDB, where there is one: whatever a child does, its parent keeps its sessions.

See support/driver_matrix.py for what a cell is. All cells of a driver run in one program, at the first test that asks.
"""

from __future__ import annotations

import pytest

from support import drivers
from support.driver_matrix import CELLS, CONTROLS, STATES, Cell, cells_of, damaged, in_this_process, run_matrix

DRIVERS = ("pymysql", "MySQLdb")
TLS = pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])


@pytest.mark.parametrize(("driver", "cell"), cells_of(DRIVERS, dict.fromkeys(DRIVERS, CELLS)))
@TLS
def test_cell(mariadb, driver, tls, cell):
    """The parent keeps what it has."""
    assert run_matrix(driver, mariadb, tls)[cell] == []


@pytest.mark.parametrize(("driver", "cell"), cells_of(DRIVERS, CONTROLS))
@TLS
def test_cell_without_cure(mariadb, driver, tls, cell):
    """The control: the parent suffers."""
    wrong = run_matrix(driver, mariadb, tls)[cell]
    assert damaged(wrong), wrong


@pytest.mark.parametrize("cure", ["close_on_fork", "resource"])  # a pool's threads are no company for a C fork
@TLS
def test_every_way_to_fork(mariadb, fork, tls, cure):
    pytest.importorskip("pymysql")
    driver = drivers.DRIVERS["pymysql"](mariadb, tls)
    for state in STATES:
        for action in ("gc", "query"):
            assert in_this_process(driver, Cell(cure, state, action), fork) == []
