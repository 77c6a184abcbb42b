"""`python -m eventide`: the command line, where the script `eventide` isn't on the path."""

import sys

from .cli import main

sys.exit(main())
