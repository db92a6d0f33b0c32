from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.training.prior import TrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "train"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chanels": [8]}, "network 'cqtunet': .*'chanels'"),
        ({"layers": [1]}, "3 channels and 1 layers"),
        ({"channels": [8], "layers": [1]}, "1 octave"),
        ({"layer": "dense"}, "layer 'dense'"),
        ({"patch": [3, 1]}, "8 bins per octave are no multiple of patch 3"),
        ({"window": "boxcar"}, "window 'boxcar'"),
        ({"channels": [8, 8, 12], "layer": "dilated"}, "multiples of 8"),
        # These would build a network that fails when it is used.
        ({"bins_per_octave": True}, "bins_per_octave=True: whole numbers expected"),
        ({"bins_per_octave": 1.5}, "bins_per_octave=1.5: whole numbers expected"),
        ({"channels": [8, 8.0, 12]}, "channels=.*: whole numbers expected"),
        ({"channels": 8}, "channels=8: whole numbers expected"),
        ({"patch": [1, True]}, "patch=.*: whole numbers expected"),
        ({"bins_per_octave": 0}, "3 octaves of 0 bins: at least 1 expected"),
        ({"name": "unet"}, r"unknown network 'unet' \(known: cqtunet, ncsnpp\)"),
    ],
    ids=str,
)
def test_wrong_arguments(tiny_network: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason) as caught:
        make_network(**{**tiny_network, **changes})
    assert "\n" not in str(caught.value)


def parameter_count(config_name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("NLDIFF_DATA", "data")
    config = load_config(TrainingConfig, CONFIGS / config_name)
    with torch.device("meta"):
        return sum(p.numel() for p in make_network(**config.network).parameters())


def test_size_of_the_paper_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand, with c channels: a dilated layer has a 5 x 3 convolution (15 c^2), the modulation (256 x 2 c) and c
    # scales. Encoder and decoder have `layers` of them on each level, the bottleneck 3 more on the deepest.
    channels, layers = [32, 32, 64, 64, 128, 128, 256, 256], [1, 3, 4, 5, 5, 6, 6, 7]
    counts = [2 * n for n in layers]
    counts[-1] += 3
    stacks = sum(n * (15 * c * c + 512 * c + c) for n, c in zip(counts, channels, strict=True))
    # In and out of every octave and the linear group: 2 real channels; then between levels, down and up.
    ends = sum(2 * 2 * c for c in [*channels, channels[-1]]) + 9
    between = sum(2 * a * b for a, b in pairwise(channels))
    embedding = 32 * 128 + 128 * 256 + 256 * 256
    expected = stacks + ends + between + embedding
    assert parameter_count("guitar_paper.yaml", monkeypatch) == expected
    assert 40.5e6 < expected < 41.5e6


def test_small_network_fits_into_20_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parameter_count("guitar_small.yaml", monkeypatch) * 2 < 20e6
