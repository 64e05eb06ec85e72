"""Sphinx: the documentation, built strictly with `python -m sphinx -W --keep-going -b dirhtml docs build/docs`.

forksafe must be importable by the Python that runs Sphinx. Nothing is loaded from the network, neither by the build
nor by the pages. What is not in Sphinx is in docstrings.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import forksafe

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

project = "forksafe"
author = copyright = "The forksafe developers"
version = release = forksafe.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings"]

# A dead link is a warning, and with -W an error; so is an unknown name in the reference.
nitpicky = True
nitpick_ignore_regex = [
    # The standard library: its inventory would have to be loaded.
    (r"py:.*", r"(_?threading|concurrent\.futures|multiprocessing|contextlib|collections|typing|types|logging)(\..*)?"),
    # Type variables and aliases: the docstrings that use them explain them.
    (r"py:class", r"(forksafe\..*\.)?_?[A-Z](_co)?|P\.(kw)?args"),
    (r"py:class", r"(forksafe\..*\.)?(_Hook|_Decorator|Fds|Context|BaseContext|Busy|Checkout)"),
    (r"py:.*", r"(Runtime|Timeout)(Error|Warning)|BrokenExecutor|Callable|Iterable|Iterator|Sequence|Mapping"),
]
myst_heading_anchors = 3

default_role = "code"
python_maximum_signature_line_length = 88
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"forksafe {release}"
html_static_path = ["_static"]
html_css_files = ["forksafe.css"]
html_copy_source = False
html_show_sphinx = False
