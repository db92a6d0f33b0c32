"""The refinement network at work: its files, the shipped ones, and when one is for a recording."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nldiff.devices import fast_dtype
from nldiff.errors import NldiffError
from nldiff.networks.refinement import RefinementNetwork, inexact, make_refinement_network
from nldiff.priors import Prior
from nldiff.restoration.feasible import Intervals
from nldiff.restoration.sparse import RefinementSettings
from nldiff.sound.chunks import equal_parts, joined
from nldiff.weight_files import Field, FileKind, number_field

SHIPPED: tuple[str, ...] = ("guitar", "speech")
"""Names of the shipped networks: those of the priors that they are for."""

# Of what the network sees at once: it was trained on crops that are shorter, and memory is that of one.
_SECTION_SECONDS, _OVERLAP_SECONDS = 3.0, 0.25


def _are_windows(value: Any) -> bool:
    lengths = isinstance(value, list) and bool(value) and all(type(each) is int and each > 0 for each in value)
    return lengths and value == sorted(set(value))


_FILES = FileKind(
    "refinement network",
    "restoration/weights",
    SHIPPED,
    {
        "sample_rate": number_field(1000, 1_000_000, whole=True),
        "windows": Field("lengths of windows, the shortest first,", _are_windows),
    },
    {"trust": number_field(0, 1)},
    make_refinement_network,
)


@dataclass(frozen=True)
class Refiner:
    """A refinement network and the signals that it is for.

    Attributes:
        network: in inference mode.
        sample_rate: of its signals, Hz.
        windows: of the shrinkage before it, samples.
        trust: share of its correction that is made. Where a network knows some signals better than others, a part of
            the correction is better in the mean than all of it.
    """

    network: RefinementNetwork
    sample_rate: int
    windows: tuple[int, ...]
    trust: float = 1.0

    @torch.no_grad()
    def __call__(self, found: Tensor, feasible: Intervals) -> Tensor:
        """Refine what the shrinkage found with every window, [batch, windows, time], to a member of the set."""
        mean = feasible.project(found.mean(1))
        # One by one, as other networks on a CPU: memory stays that of one section.
        refined = torch.cat([self._refined(found[[item]], feasible.of([item])) for item in range(len(found))])
        return feasible.project(torch.lerp(mean, feasible.project(refined), self.trust))

    def _refined(self, found: Tensor, feasible: Intervals) -> Tensor:
        """What the network makes of one item [1, windows, time], by sections; those that are known stay as they are."""
        length, overlap = (round(seconds * self.sample_rate) for seconds in (_SECTION_SECONDS, _OVERLAP_SECONDS))
        starts, length = equal_parts(found.shape[2], length, overlap)
        sections = []
        for start in starts:
            here = slice(start, start + length)
            part, low, high = found[:, :, here], feasible.low[:, here], feasible.high[:, here]
            mean = torch.clamp(part.mean(1), low, high)
            is_open = bool(inexact(low, high, mean.square().mean(1, keepdim=True).sqrt()).any())
            sections.append((self.network(part, low, high) if is_open else mean).cpu().numpy())
        whole = np.concatenate(list(joined(sections, starts, found.shape[2])), axis=1)
        return torch.from_numpy(whole).to(found.device)


def refiner_for(settings: RefinementSettings, prior: Prior, sample_rate: int) -> Refiner | None:
    """The refinement network that the settings name.

    Args:
        settings: names it in `network`, and has the windows of the shrinkage.
        prior: of the restoration; "auto" takes the shipped network of the same name.
        sample_rate: of the recording, Hz.

    Returns:
        None for "none", and for "auto" without a network for such recordings.

    Raises:
        NldiffError: a network that was asked for is for another rate or for other windows, or cannot be loaded.
    """
    name = prior.name if settings.network == "auto" else settings.network
    if name == "none" or (settings.network == "auto" and name not in SHIPPED):
        return None
    refiner = load_refiner(name, next(prior.denoiser.parameters()).device)
    if (refiner.sample_rate, refiner.windows) == (sample_rate, tuple(settings.windows)):
        return refiner
    if settings.network == "auto":
        return None
    raise NldiffError(
        f"refinement.network={name}: it is for {refiner.sample_rate} Hz and windows {list(refiner.windows)}, not for "
        f"{sample_rate} Hz and {list(settings.windows)}"
    )


def save_refiner(path: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write a file, completely or not at all; the weights are rounded to bfloat16.

    Args:
        path: file to write.
        network: refinement network.
        config: metadata: at least `network` (arguments), `sample_rate` and `windows`; `trust`, see `Refiner`.

    Raises:
        NldiffError: the file cannot be written.
    """
    _FILES.save(path, network, config)


def load_refiner(name_or_path: str | Path, device: torch.device) -> Refiner:
    """Load a shipped network by name or any by path; it computes in `fast_dtype(device)`.

    Raises:
        NldiffError: unknown name, missing, corrupted or foreign file.
    """
    _, network, config = _FILES.load(name_or_path)
    network.to(device).eval()
    network.freeze(fast_dtype(device))
    return Refiner(network, config["sample_rate"], tuple(config["windows"]), config.get("trust", 1.0))
