"""nldiff: recover the clean signal and the transfer curve from a distorted recording."""

__version__ = "0.1.0"
