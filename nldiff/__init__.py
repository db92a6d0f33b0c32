"""nldiff: recover the clean signal and the transfer curve from a distorted recording."""

__version__ = "0.1.0"
__all__ = ["NldiffError", "Restoration", "RestoreConfig", "load_prior", "restore"]

from nldiff.errors import NldiffError
from nldiff.priors import load_prior
from nldiff.restore import Restoration, restore
from nldiff.settings import RestoreConfig
