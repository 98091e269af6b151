"""`python -m harmonica`, which torchrun starts several of."""

import sys

from harmonica.cli import main

sys.exit(main())
