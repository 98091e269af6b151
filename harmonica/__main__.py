"""`python -m harmonica`, as torchrun starts it."""

import sys

from harmonica.cli import main

sys.exit(main())
