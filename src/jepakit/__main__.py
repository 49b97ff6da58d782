"""`python -m jepakit` is the command `jepakit`."""

import sys

from jepakit.cli import main

sys.exit(main())
