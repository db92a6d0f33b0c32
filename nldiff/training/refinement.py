"""Training of a refinement network: from examples on disk to the clean signal inside its bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nldiff.errors import NldiffError, require
from nldiff.metrics.sdr import si_sdr
from nldiff.networks.refinement import RefinementNetwork, inexact, make_refinement_network
from nldiff.operators import parse_operator
from nldiff.restoration.learned import save_refiner
from nldiff.restoration.sparse import RefinementSettings
from nldiff.training.baseline import draw_recipe
from nldiff.training.curves import CurveErrors
from nldiff.training.data import Augmentation, Crops
from nldiff.training.examples import DrawOperator, Example, Examples, operator_drawer
from nldiff.training.loop import LoopConfig, StepReport, Training, compute_dtype, provenance, run
from nldiff.transforms.stft import stft

# Squared error per sample that counts as none, relative to the power of the clean signal.
_TINY = 1e-6
_SPECTRUM_WINDOWS = (256, 1024, 4096)


@dataclass(frozen=True)
class SpectrumLoss:
    """The log-spectral part of the loss.

    Attributes:
        weight: of this part.
        floor: energies below this fraction of the mean count as that.
    """

    weight: float = 0.1
    floor: float = 1e-4

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "spectrum", ("weight",), least=0)
        require(self, "spectrum", ("floor",), above=0)


@dataclass
class RefinementConfig(LoopConfig):
    """Everything that defines the training of a refinement network; the fields of `configs/train/*_refinement.yaml`.

    Audio has the RMS 1 here: thresholds and steps of distortions are in multiples of it.

    Attributes:
        trains: tells `nldiff train` what the file describes.
        examples_dir: folder of the examples, see `nldiff.training.examples`; "" is a folder in `run_dir`.
        examples, example_length: number of the examples and their length in samples.
        refinement: windows, iterations and thresholds of the examples: those of a restoration.
        distortions: as in `nldiff.training.baseline.SupervisedConfig`; all of them increasing.
        random_share: share of curves that are random instead, see `nldiff.training.curves.random_monotone`.
        curves: how exactly curves are known.
        spectrum: the log-spectral part of the loss.
        trust: share of the correction that restorations make, stored with the network, see
            `nldiff.restoration.learned.Refiner`.
        val_distortions: distortions of the validation, as texts: `hard_clip:sdr=3`.
    """

    trains: str = "refinement"
    examples_dir: str = ""
    examples: int = 1000
    example_length: int = 32768
    refinement: RefinementSettings = field(default_factory=RefinementSettings)
    distortions: list[dict[str, Any]] = field(default_factory=list)
    random_share: float = 0.15
    curves: CurveErrors = field(default_factory=CurveErrors)
    spectrum: SpectrumLoss = field(default_factory=SpectrumLoss)
    trust: float = 1.0
    val_distortions: list[str] = field(default_factory=list)


def refinement_loss(example: Example, estimate: Tensor, spectrum: SpectrumLoss) -> Tensor:
    """Loss of estimates [batch, time] of clean signals.

    It is the log of the squared error of the samples that are not exact, less that of what was found (so that 0 is no
    improvement and -ln 2 is 3 dB), and `spectrum.weight` times the mean difference of log magnitudes of spectra.

    Returns:
        [batch].
    """
    clean, found = example.clean, example.found.mean(1)
    weights = inexact(example.low, example.high, clean.square().mean(1, keepdim=True).sqrt()).to(clean.dtype)
    tiny = _TINY * clean.square().sum(1)

    def log_error(x: Tensor) -> Tensor:
        return torch.log(((x - clean).square() * weights).sum(1) + tiny)

    before = log_error(torch.clamp(found, example.low, example.high))
    return log_error(estimate) - before + spectrum.weight * _spectral_distance(clean, estimate, spectrum.floor)


def _spectral_distance(clean: Tensor, estimate: Tensor, floor: float) -> Tensor:
    """Mean absolute difference of log magnitudes over spectra with several windows; [batch, time] -> [batch]."""
    distances = []
    for window in _SPECTRUM_WINDOWS:
        target, found = (stft(x, window, window // 4).abs().square() for x in (clean, estimate))
        least = floor * target.mean((1, 2), keepdim=True)
        distances.append((torch.log(found + least) - torch.log(target + least)).abs().mean((1, 2)) / 2)
    return torch.stack(distances).mean(0)


def train_refinement(
    config: RefinementConfig, resume: bool = False, on_step: Callable[[StepReport], None] | None = None
) -> Path:
    """Train a refinement network and return the path of its file, `run_dir/refinement.safetensors`.

    The file holds the averaged network of the best validation. See `nldiff.training.loop.run` for the arguments and the
    other files.

    Raises:
        NldiffError: as `run`; unknown distortions.
    """
    return run(config, lambda device: _training(config, device), resume, on_step)


def training_examples(config: RefinementConfig) -> Examples:
    """The examples of the training."""
    crops = Crops(config.train_data, config.sample_rate, 1.0, config.augmentation, config.seed, config.train_weights)
    draw = operator_drawer(config.distortions, config.random_share)
    return _examples(config, "train", crops, config.examples, config.example_length, draw, config.curves)


def validation_examples(config: RefinementConfig) -> dict[str, Examples]:
    """The examples of the validation, by distortion; their curves are exact."""
    crops = Crops(config.val_data, config.sample_rate, 1.0, Augmentation(), config.seed)
    found = {}
    for text in config.val_distortions:
        folder = "val_" + "".join(c if c.isalnum() else "_" for c in text)
        draw = _fixed(text)
        found[text] = _examples(config, folder, crops, config.val_items, config.val_length, draw, CurveErrors(0, 0, 0))
    return found


@torch.no_grad()
def validate(
    network: nn.Module, validation: Mapping[str, Examples], device: torch.device, spectrum: SpectrumLoss
) -> list[float]:
    """Mean loss over all examples of the validation, mean gain of SI-SDR over them in dB, and that by distortion."""
    losses, gains = [], []
    for examples in validation.values():
        gain = []
        for number in range(examples.count):
            example = Example.unstacked(examples.example(number)[None].to(device))
            estimate = network(example.found, example.low, example.high)
            losses.append(float(refinement_loss(example, estimate, spectrum)))
            before = torch.clamp(example.found.mean(1), example.low, example.high)
            gain.append(float(np.mean(si_sdr(example.clean, estimate) - si_sdr(example.clean, before))))
        gains.append(float(np.mean(gain)))
    return [float(np.mean(losses)), float(np.mean(gains)), *gains]


def refinement_config(config: RefinementConfig, step: int) -> dict[str, Any]:
    """Metadata of the network that `config` gives after `step` steps."""
    return {
        "network": config.network,
        "sample_rate": config.sample_rate,
        "windows": list(config.refinement.windows),
        "trust": config.trust,
        **provenance(config, step, examples=config.examples, distortions=config.distortions),
    }


def _training(config: RefinementConfig, device: torch.device) -> Training:
    _check(config)
    validation = validation_examples(config)
    path = Path(config.run_dir) / "refinement.safetensors"

    def network() -> RefinementNetwork:
        network = make_refinement_network(**config.network)
        network.network.compute_dtype = compute_dtype(config, device)
        return network

    def losses(network: nn.Module, parts: Tensor, step: int, items: Sequence[int]) -> tuple[Tensor, Tensor]:
        example = Example.unstacked(parts)
        losses = refinement_loss(example, network(example.found, example.low, example.high), config.spectrum)
        return losses, losses

    return Training(
        make_network=network,
        data=training_examples(config),
        losses=losses,
        columns=["loss", "si_sdr_gain", *config.val_distortions],
        validate=lambda average: validate(average, validation, device, config.spectrum),
        save=lambda average, step: save_refiner(path, average, refinement_config(config, step)),
        result=path,
        keep_best=True,
    )


def _examples(
    config: RefinementConfig, name: str, crops: Crops, count: int, length: int, draw: DrawOperator, errors: CurveErrors
) -> Examples:
    folder = Path(config.examples_dir or Path(config.run_dir) / "examples") / name
    return Examples(folder, crops, length, count, draw, errors, config.refinement)


def _fixed(text: str) -> DrawOperator:
    recipe = parse_operator(text)
    return lambda random, clean: recipe.build(clean[None])


def _check(config: RefinementConfig) -> None:
    require(config, "", ("trust",), least=0)
    if config.trust > 1:
        raise NldiffError(f"trust={config.trust:g}: a number from 0 to 1 expected")
    if not config.val_distortions or not (config.distortions or config.random_share == 1):
        raise NldiffError("distortions and val_distortions: at least one of each expected")
    if config.examples < 1 or config.val_items < 1:
        raise NldiffError(f"examples={config.examples}, val_items={config.val_items}: at least 1 expected")
    if max(config.segment_lengths) > config.example_length:
        raise NldiffError(
            f"segment_lengths={config.segment_lengths}: at most example_length={config.example_length} expected"
        )
    for entry in config.distortions:
        draw_recipe([entry], np.random.default_rng(0))
