"""The files of the tests run side by side, in processes of pytest-xdist, where that is installed.

Guarantees: the tests of one file stay in one process, in their order. All tests that use PostgreSQL share one process
and its server, those that use only Redis another. One more process than there are processors, since tests often wait;
`-n` on the command line says otherwise, or xdist's PYTEST_XDIST_AUTO_NUM_WORKERS. `-n 0` is a single process, as are
single files and a debugger.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

SERVERS = {"postgres": "postgres", "mariadb": "mariadb", "redis_server": "redis"}  # fixtures and their groups


def lanes() -> int:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or min(processors + 1, 6))


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads these
def pytest_cmdline_main(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or "PYTEST_XDIST_WORKER" in os.environ:
        return  # this is one of the processes
    if not config.pluginmanager.hasplugin("xdist") or config.option.numprocesses is not None:
        return
    if config.option.usepdb or config.option.collectonly or not any(map(os.path.isdir, config.args)):
        return
    config.option.numprocesses, config.option.dist = lanes(), "loadgroup"
    config.option.loadscopereorder = False  # within each process the files run in their usual order


@pytest.hookimpl(tryfirst=True)  # before xdist, which adds the group to the name
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        used = [name for name in SERVERS if name in getattr(item, "fixturenames", ())]
        if used:
            item.add_marker("server")
        if config.pluginmanager.hasplugin("xdist") and item.get_closest_marker("server"):
            item.add_marker(pytest.mark.xdist_group(SERVERS[used[0]] if used else "postgres"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            group = str(super()._split_scope(nodeid))
            return nodeid.partition("::")[0] if group == nodeid else group

    return ByFile(config, log)
