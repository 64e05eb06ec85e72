"""python -m forksafe: see cli.py."""

import sys

from forksafe.cli.main import main

sys.exit(main())
