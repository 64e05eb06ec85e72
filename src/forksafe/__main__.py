"""python -m forksafe: see cli.py."""

import sys

from forksafe.cli import main

sys.exit(main())
