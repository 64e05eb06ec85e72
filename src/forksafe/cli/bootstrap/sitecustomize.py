"""What Python runs at start-up in a program that `forksafe run` or `forksafe doctor` started, and in its children.

Installs forksafe, or the doctor's agent, before the program's first line, then runs the sitecustomize that this one
hides. Any Python may run it: in one that is old or has no forksafe it does nothing.
"""

import os
import sys


def _install():
    try:
        from forksafe.patching import install
    except Exception as error:
        if os.environ.get("FORKSAFE_VERBOSE"):
            sys.stderr.write("forksafe: not installed for %s: %s\n" % (sys.executable, error))
        return
    if os.environ.get("FORKSAFE_DOCTOR"):
        from forksafe.doctor import agent

        agent.start(os.environ["FORKSAFE_DOCTOR"])
        return
    install.install(connections=os.environ.get("FORKSAFE_CONNECTIONS", "0") not in ("", "0"))
    if os.environ.get("FORKSAFE_VERBOSE"):
        from forksafe.cli.run import print_report

        print_report(install.report())


def _go_on(here):
    """The program gets the path, and the sitecustomize, that it has without forksafe."""
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
