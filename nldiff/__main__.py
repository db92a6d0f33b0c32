"""`python -m nldiff`, which is what `torchrun -m nldiff` starts."""

import sys

from nldiff.cli import main

sys.exit(main())
