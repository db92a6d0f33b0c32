"""nldiff: recover the clean signal and the transfer curve from a distorted recording."""

import os

__version__ = "0.1.0"
__all__ = ["NldiffError", "Restoration", "RestoreConfig", "load_prior", "restore"]

# Idle threads of GNU OpenMP spin for milliseconds, which takes the processor from those that they wait for if another
# program runs too. Read when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from nldiff.errors import NldiffError
from nldiff.priors import load_prior
from nldiff.restore import Restoration, restore
from nldiff.settings import RestoreConfig
