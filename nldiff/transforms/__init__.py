"""Invertible time-frequency transforms used by the networks."""

from nldiff.transforms.cqt import ConstantQ

__all__ = ["ConstantQ"]
