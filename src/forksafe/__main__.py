"""python -m forksafe: the command line."""

import sys

from forksafe.cli.main import main

sys.exit(main())
