"""Networks trained on pairs of distorted and clean audio, by name; a new one is a class and a line in this table."""

from typing import Any

from torch import nn

from nldiff.baselines.crafx import CRAFx
from nldiff.baselines.demucs import Demucs
from nldiff.baselines.open_unmix import OpenUnmix
from nldiff.baselines.wave_unet import WaveUNet
from nldiff.networks import make_from_table

NETWORKS: dict[str, type[nn.Module]] = {"demucs": Demucs, "wave-unet": WaveUNet, "umx": OpenUnmix, "crafx": CRAFx}


def make_network(name: str = "", **arguments: Any) -> nn.Module:
    """Build a network from its name and constructor arguments; `[batch, time]` at unit RMS -> `[batch, time]`.

    Raises:
        NldiffError: the name is missing or unknown, or an argument is not one of the constructor's.
    """
    return make_from_table(NETWORKS, name, arguments)
