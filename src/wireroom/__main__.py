"""`python -m wireroom` is the command `wireroom`."""

import sys

from wireroom.cli import main

sys.exit(main())
