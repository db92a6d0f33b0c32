"""Table of the supervised networks, trained on pairs of distorted and clean audio; a new one is a class and a line."""

from typing import Any

from torch import nn

from nldiff.baselines.crafx import CRAFx
from nldiff.baselines.demucs import Demucs
from nldiff.baselines.open_unmix import OpenUnmix
from nldiff.baselines.wave_unet import WaveUNet
from nldiff.networks import make_from_table

NETWORKS: dict[str, type[nn.Module]] = {"demucs": Demucs, "wave-unet": WaveUNet, "umx": OpenUnmix, "crafx": CRAFx}


def make_network(name: str = "", **arguments: Any) -> nn.Module:
    """Build a network, `[batch, time]` at unit RMS -> `[batch, time]`, from its name and constructor arguments.

    Raises:
        NldiffError: the name is missing or unknown, or the constructor refuses an argument.
    """
    return make_from_table(NETWORKS, name, arguments)
