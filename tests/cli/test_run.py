"""forksafe run: programs behave as without it, but for hanging."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from forksafe.cli import launch
from support.programs import hangs, python, script, succeeds

RUN = ("-m", "forksafe", "run")
HANGING = """
    import os, sys, threading
    lock = threading.Lock()
    inside = threading.Event()
    def hold():
        with lock:
            inside.set()
            threading.Event().wait()
    threading.Thread(target=hold, daemon=True).start()
    inside.wait(5)
    pid = os.fork()
    if pid == 0:
        with lock:
            os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    os._exit(0)
"""


@pytest.fixture
def hanging(tmp_path):
    return script(tmp_path / "hanging.py", HANGING)


def test_script(hanging):
    assert succeeds(python(*RUN, hanging)) == "7\n"


def test_control(hanging):
    assert hangs(hanging)


def test_module(hanging, tmp_path):
    assert succeeds(python(*RUN, "-m", "hanging", cwd=tmp_path)) == "7\n"


def test_code(tmp_path):
    assert (
        succeeds(python(*RUN, "-c", "import threading; print(threading.Lock.__name__, __name__)")) == "Lock __main__\n"
    )


def test_command_and_its_python_children(hanging, tmp_path):
    """A console script that starts Pythons of its own, one of them through a shell."""
    console = tmp_path / "console"
    console.write_text(
        f"#!{sys.executable}\nimport os, subprocess, sys\n"
        f"subprocess.run([sys.executable, {hanging!r}], check=True)\n"
        f"sys.exit(os.waitstatus_to_exitcode(os.system({sys.executable + ' ' + hanging!r})))\n"
    )
    console.chmod(0o755)
    assert succeeds(python(*RUN, "--", str(console))) == "7\n7\n"
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert succeeds(python(*RUN, "--", "console", env=environment)) == "7\n7\n"


def test_command_that_is_no_python():
    assert python(*RUN, "--", "sh", "-c", "exit 5").returncode == 5


LOOK = """
    import json, os, sys
    main = sys.modules["__main__"]
    print(json.dumps({
        "argv": sys.argv, "path": sys.path, "name": __name__, "file": __file__, "orig": sys.orig_argv, "doc": __doc__,
        "main": sorted(name for name in vars(main)), "main is this": vars(main) is globals(),
        "flags": list(sys.flags), "warnoptions": sys.warnoptions, "xoptions": sys._xoptions, "cwd": os.getcwd(),
        "loader": type(__loader__).__name__, "spec": str(__spec__ and (__spec__.name, __spec__.origin)),
        "package": __package__, "executable": sys.executable,
    }))
"""


@pytest.mark.parametrize("how", ["script", "module", "directory"])
def test_run_program_environment(tmp_path, how):
    """All that a program sees of itself is as without forksafe."""
    if how == "directory":
        (tmp_path / "app").mkdir()
        script(tmp_path / "app" / "__main__.py", LOOK)
        target = [str(tmp_path / "app"), "a", "--b"]
    else:
        target = ["-m", "look", "a", "--b"] if how == "module" else [script(tmp_path / "look.py", LOOK), "a", "--b"]
        script(tmp_path / "look.py", LOOK)
    flags = ["-X", "dev", "-W", "error::UserWarning", "-O"]
    without = succeeds(python(*flags, *target, cwd=tmp_path))
    assert succeeds(python(*flags, *RUN, *target, cwd=tmp_path)) == without
    for option in ("--verbose", "--connections"):
        assert succeeds(python(*flags, "-m", "forksafe", "run", option, *target, cwd=tmp_path)) == without


@pytest.mark.parametrize("text", [
    "1 / 0", "def f():\n    raise KeyError('x')\nf()", "import sys; sys.exit(9)", "import sys; sys.exit('message')",
    "raise SystemExit", "import os; os._exit(4)", "import os; os.abort()", "raise KeyboardInterrupt", "syntax error",
    "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "import threading; threading.Thread(target=lambda: 1/0).start()",
    "import atexit; atexit.register(print, 'bye')",
])  # fmt: skip
def test_run_exit_status(tmp_path, text):
    """Exit status, output and traceback are as without forksafe."""
    program = script(tmp_path / "program.py", text)
    without, with_forksafe = python(program), python(*RUN, program)
    assert with_forksafe.returncode == without.returncode
    assert with_forksafe.stdout == without.stdout
    assert strip_addresses(with_forksafe.stderr) == strip_addresses(without.stderr)


def strip_addresses(text: str) -> str:
    """Also without the compiled modules that faulthandler lists."""
    import re

    frame = r"line \d+,? in (?:run|_bootstrap\w*)"
    return re.sub(rf"0x[0-9a-f]+|Thread-\d+|{frame}|\n\nExtension modules: .*", "", text)


@pytest.mark.parametrize("target", [["missing.py"], ["."], ["-m", "no_such_module"], ["-m", "forksafe.no_such"]])
def test_run_missing_program(tmp_path, target):
    """It fails as it does with Python itself."""
    without, with_forksafe = python(*target, cwd=tmp_path), python(*RUN, *target, cwd=tmp_path)
    assert without.returncode in (1, 2)
    assert (with_forksafe.returncode, with_forksafe.stderr) == (without.returncode, without.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "a script, -m MODULE or -- COMMAND is needed"),
        (["run", "--"], "a script, -m MODULE or -- COMMAND is needed"),
        (["run", "-m"], "-m needs the name of a module"),
        (["run", "--fast", "x.py"], "no such option: --fast"),
        (["run", "-q", "x.py"], "no such option: -q"),
        (["run", "--connections"], "a script, -m MODULE or -- COMMAND is needed"),
        (["run", "--connections=no", "x.py"], "argument --connections: ignored explicit argument 'no'"),
        (["run", "--", "no-such-command-anywhere"], "command not found: no-such-command-anywhere"),
        (["run", "--conn", "x.py"], "no such option: --conn"),
        (["ruin"], "argument COMMAND: invalid choice: 'ruin'"),
        ([], "a command is needed"),
    ],
)
def test_bad_usage(arguments, message):
    result = python("-m", "forksafe", *arguments)
    assert result.returncode == 2
    error, usage = result.stderr.splitlines()
    assert error == f"forksafe: {arguments[0]}: {message}" if arguments[:1] == ["run"] else message in error
    assert usage.startswith("usage: forksafe")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["--verbose", "look.py", "--verbose", "-h"], ["look.py", "--verbose", "-h"]),
        (["-m", "look", "-h", "--", "x"], ["look.py", "-h", "--", "x"]),
        (["--", sys.executable, "look.py", "--", "--connections"], ["look.py", "--", "--connections"]),
        (["look.py", "--", "-m", "x"], ["look.py", "--", "-m", "x"]),
        (["-c", "import look", "-a", "--help"], ["-c", "-a", "--help"]),
        (["look.py", ""], ["look.py", ""]),
    ],
)
def test_options_of_program(tmp_path, arguments, seen):
    """What follows the program belongs to it, whatever it looks like."""
    text = "import json, os, sys; print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]))"
    script(tmp_path / "look.py", text)
    assert json.loads(succeeds(python(*RUN, *arguments, cwd=tmp_path))) == seen


def test_program_on_stdin():
    command = [sys.executable, *RUN, "-", "--help"]
    said = subprocess.run(command, input="import sys; print(sys.argv)", capture_output=True, text=True, timeout=30)
    assert said.stdout == "['-', '--help']\n", said.stderr


def test_command_that_cannot_be_executed(tmp_path):
    (tmp_path / "broken").write_text("#!/no/such/interpreter\n")
    (tmp_path / "broken").chmod(0o755)
    result = python(*RUN, "--", str(tmp_path / "broken"))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_run_isolated_python(hanging, flag):
    """-I, -E and -S keep forksafe out: that is an error."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; sys.argv = ['forksafe', 'run', {hanging!r}]\n"
        "from forksafe.cli.main import main; sys.exit(main())"
    )
    result = python(flag, "-c", code)
    assert result.returncode == 2
    assert "without -I, -E and -S" in result.stderr


def test_help_and_version():
    said = succeeds(python("-m", "forksafe", "--help"))
    assert "forksafe run" in said
    assert succeeds(python("-m", "forksafe", "help")) == said
    for command, option in (("run", "--connections"), ("doctor", "--hang SECONDS"), ("demo", "--only NAME")):
        assert option in succeeds(python("-m", "forksafe", command, "--help"))
    assert succeeds(python("-m", "forksafe", "--version")).startswith("forksafe 0.")


def test_verbose_says_what_was_done(hanging):
    result = python(*RUN, "--verbose", hanging)
    assert succeeds(result) == "7\n"
    for text in ("names replaced", "threading.Lock", "_thread.allocate_lock", "existing locks exchanged"):
        assert text in result.stderr
    assert "connections watched" not in result.stderr


# --connections


SHARING = """
    import os, socket, sys
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        accepted = listening.accept()[0]
    pid = os.fork()
    if pid == 0:
        try:
            client.send(b"from the child ")
        except BrokenPipeError:
            pass
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    client.send(b"from the parent")
    print(accepted.recv(99).decode())
"""


@pytest.fixture
def sharing(tmp_path):
    return script(tmp_path / "sharing.py", SHARING)


@pytest.mark.parametrize("how", ["script", "-m", "--", "a child"])
def test_connections(sharing, tmp_path, how):
    start = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, {sharing!r}]))"
    target = {
        "script": [sharing], "-m": ["-m", "sharing"], "--": ["--", sys.executable, sharing],
        "a child": [script(tmp_path / "start.py", start)],
    }[how]  # fmt: skip
    assert succeeds(python(*RUN, "--connections", *target, cwd=tmp_path)) == "from the parent\n"
    assert succeeds(python(*RUN, *target, cwd=tmp_path)) == "from the child from the parent\n"


def test_connections_off_in_child(sharing, tmp_path):
    start = (
        f"import os, sys; os.environ['FORKSAFE_CONNECTIONS'] = '0'; os.execv(sys.executable, ['python', {sharing!r}])"
    )
    result = python(*RUN, "--connections", script(tmp_path / "start.py", start))
    assert succeeds(result) == "from the child from the parent\n"


def test_connections_and_the_locks_too(hanging):
    assert succeeds(python(*RUN, "--connections", "--verbose", hanging)) == "7\n"


def test_verbose_connections(sharing):
    result = python(*RUN, "--verbose", "--connections", sharing)
    assert succeeds(result) == "from the parent\n"
    watched = result.stderr.partition("connections watched:")[2]
    for text in (
        "Python sockets",
        "psycopg.connection",
        "psycopg2",
        "MySQLdb",
        "asyncio",
        "sqlalchemy.engine.base.Engine",
    ):
        assert text in watched


def test_own_sitecustomize(tmp_path, hanging):
    """The user's own sitecustomize runs, too."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import sys\nsys.stderr.write('own sitecustomize\\n')\nvalue = 1\n")
    program = script(
        tmp_path / "program.py", "import sitecustomize, threading; print(sitecustomize.value, threading.Lock)"
    )
    pythonpath = os.pathsep.join(filter(None, [str(own), os.environ.get("PYTHONPATH")]))
    result = python(*RUN, program, env={"PYTHONPATH": pythonpath})
    assert "forksafe_core" in succeeds(result)
    assert result.stderr.count("own sitecustomize") >= 1


def test_python_without_forksafe(tmp_path):
    """A child that is another Python, where forksafe is not installed: as if nothing were."""
    bootstrap = launch.BOOTSTRAP
    assert os.path.exists(os.path.join(bootstrap, "sitecustomize.py"))
    code = "import threading, sys; assert 'forksafe' not in sys.modules; print(threading.Lock)"
    block = tmp_path / "usercustomize.py"
    block.write_text("")
    (tmp_path / "forksafe.py").write_text("raise ImportError('not here')\n")
    environment = {"PYTHONPATH": os.pathsep.join([bootstrap, str(tmp_path)]), "FORKSAFE_RUN": "1"}
    result = python("-c", code, env=environment)
    assert "forksafe" not in succeeds(result)
    assert result.stderr == ""


def test_multiprocessing_spawn_finds_main(tmp_path):
    program = script(
        tmp_path / "program.py",
        """
        import multiprocessing, threading
        def work(x):
            return x * x, threading.Lock.__module__
        if __name__ == "__main__":
            for method in ("fork", "spawn", "forkserver"):
                with multiprocessing.get_context(method).Pool(1) as pool:
                    print(method, pool.map(work, [3]))
    """,
    )
    lines = succeeds(python(*RUN, program, timeout=60)).splitlines()
    assert [line.split("'")[1] for line in lines] == ["forksafe_core._locks"] * 3
