"""What Python runs at start-up in a program that `forksafe run` started, and in its Python children.

Installs forksafe before the program's first line, then runs the sitecustomize that this one hid. May be run by any
Python, old or without forksafe: then it does nothing.
"""

import os
import sys


def _install():
    try:
        from forksafe.patching import install as patching
    except Exception as error:
        if os.environ.get("FORKSAFE_VERBOSE"):
            sys.stderr.write("forksafe: not installed for %s: %s\n" % (sys.executable, error))
        return
    if os.environ.get("FORKSAFE_DOCTOR"):
        from forksafe.doctor import agent as examining

        examining.begin(os.environ["FORKSAFE_DOCTOR"])
        return
    patching.install(connections=os.environ.get("FORKSAFE_CONNECTIONS", "0") not in ("", "0"))
    if os.environ.get("FORKSAFE_VERBOSE"):
        from forksafe.cli import main as cli

        cli.print_report(patching.report())


def _go_on(here):
    """The program sees the path, and the sitecustomize, that it would have without us."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    this = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        sys.modules["sitecustomize"] = this
        if getattr(error, "name", None) != "sitecustomize":
            raise


if os.environ.get("FORKSAFE_RUN"):
    _install()
_go_on(os.path.dirname(os.path.abspath(__file__)))
