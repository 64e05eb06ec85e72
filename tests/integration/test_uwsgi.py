"""uWSGI with a master and workers of several threads, which need what was made before the fork.

It forks in C. With --py-call-uwsgi-fork-hooks it calls the interpreter's hooks around that; without, which is its
default, nobody tells Python of the fork. Then threads of the master must not compete for the GIL at a fork, for the
interpreter itself would hang in the worker: there the background thread rests, in the master.
"""

from __future__ import annotations

import importlib.util

import pytest

from support.prefork_servers import ALL, RECYCLE, THREADS, TIMEOUT, WORKERS, ask_all, running, serves, shows_harm

pytest.importorskip("psycopg")
if importlib.util.find_spec("pyuwsgi") is None:  # not imported: it is a whole server
    pytest.skip("could not import 'pyuwsgi': uWSGI is not tested", allow_module_level=True)

COMMAND = [
    "-c", "import pyuwsgi; pyuwsgi.run()", "--master", "--wsgi", "app", "--http-socket", "{socket}",
    "--processes", str(WORKERS), "--threads", str(THREADS), "--enable-threads", "--die-on-term", "--need-app",
    "--max-requests", str(RECYCLE), "--min-worker-lifetime", "0", "--disable-logging",
]  # fmt: skip
HOOKS = "--py-call-uwsgi-fork-hooks"
REST = 3600

with_and_without = pytest.mark.parametrize(
    ("options", "pause"), [([HOOKS], 0.005), ([], REST)], ids=["hooks", "no hooks"]
)


@pytest.mark.timeout(TIMEOUT)
@with_and_without
def test_uwsgi(postgres, options, pause):
    def ask_everything():
        answers = ask_all(lambda number: server.get(ALL, number))
        server.wait_settled()  # for uWSGI forgets to end a worker that it is just making when SIGTERM comes
        return answers

    with running([*COMMAND, *options], postgres, PARENT_PAUSE=pause) as server:
        server.wait_listening()
        serves(server, postgres, ask_everything, THREADS)


@with_and_without
def test_control(postgres, options, pause):
    with running([*COMMAND, *options], postgres, PARENT_PAUSE=pause, PRIMITIVES="standard") as server:
        server.wait_listening()
        shows_harm(server, server.get)
