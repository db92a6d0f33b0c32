"""The methods from signal to signal: trained networks, sparsity, the ideal ratio mask, other packages.

They run over a recording chunk by chunk, as blind restoration does, and find no operator.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from nldiff import sound
from nldiff.baselines import external
from nldiff.baselines.aspade import PRESETS, Variant, aspade
from nldiff.baselines.choice import choose_weights
from nldiff.baselines.clipping import clipping_levels
from nldiff.baselines.ideal_ratio_mask import ideal_ratio_mask
from nldiff.baselines.saved import SHIPPED, Baseline, load_baseline
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators import Distortion, Operator
from nldiff.reading import Identity, regular_file
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.progress import Progress
from nldiff.sound.chunks import chunk_starts, joined

CLIPPERS = ("hard_clip", "asymmetric_clip", "amplified_clip")
"""Distortions that declipping is made for."""


@dataclass(frozen=True)
class Processor:
    """A method from signal to signal that is ready for one recording.

    Attributes:
        process: (chunk [channels, time] float32 at `sample_rate`, its first frame in the recording) -> restored chunk
            of the same shape, float32.
        sample_rate: Hz at which it works.
        weights: name of the network's weights; None where there are none.
    """

    process: Callable[[np.ndarray, int], np.ndarray]
    sample_rate: int
    weights: str | None = None


def by_chunks(make: Callable[[Job], Processor], job: Job, emit: Emit, on_step: OnStep = None) -> Fit:
    """Restore piece by piece with what `make` makes for the job.

    `emit` gets consecutive blocks [channels, n], in order.
    """
    started, processor = time.monotonic(), make(job)
    recording, config = job.recording, job.config
    starts, length = chunk_starts(recording, config.chunk_seconds, config.overlap_seconds)
    given, used = recording.sample_rate, processor.sample_rate

    def restored(start: int) -> np.ndarray:
        observed = recording.read(start, length)
        piece = sound.from_rate(processor.process(sound.resample(observed, given, used), start), used, given, length)
        keep = config.above_band == "keep" and given > used
        return piece + sound.above_band(observed, given, used) if keep else piece

    progress = Progress(on_step)
    progress.expect("restoring", len(starts), 0)
    for block in joined(map(restored, starts), starts, recording.frames):
        progress.advance("restoring")
        emit(block)
    return Fit(None, 1.0, time.monotonic() - started, min(given, used) / 2, processor.weights)


def unchanged(job: Job) -> Processor:
    """The recording itself, to compare with."""
    return Processor(lambda chunk, start: chunk, job.recording.sample_rate)


def network(name: str, job: Job) -> Processor:
    """A trained network with the weights of the job or, if it names none, those that suit the recording.

    Raises:
        NldiffError: no weights are shipped for it, or theirs cannot be loaded.
    """
    device = choose_device(job.config.device)
    baseline = loaded(job.weights or choose_weights(name, job.recording, _family(job.known)), device)

    def process(chunk: np.ndarray, start: int) -> np.ndarray:
        return baseline(torch.from_numpy(chunk).to(device)).cpu().numpy()

    return Processor(process, baseline.sample_rate, baseline.name)


def loaded(weights: str, device: torch.device) -> Baseline:
    """`load_baseline`, once for each network and each version of its file."""
    named = weights not in SHIPPED and Path(weights).exists()
    return _loaded(weights, device, regular_file(weights) if named else None)


@cache
def _loaded(weights: str, device: torch.device, version: Identity | None) -> Baseline:
    return load_baseline(weights, device)


def spade(variant: Variant, job: Job) -> Processor:
    """A-SPADE or S-SPADE: told the clipping levels, or with those that the signal shows.

    Raises:
        NldiffError: the known operator is no clipper, or the recording shows no clipping level.
    """
    if job.known:
        low, high, gain = _known_levels(job.known)
    else:
        low, high = clipping_levels(job.recording)
        if not np.isfinite([low, high]).any():
            raise NldiffError(
                f"{job.recording.name} is not hard clipped: no extreme value is held for three samples; if it was "
                "filtered or resampled since, give the level (--known hard_clip:threshold=…)"
            )
        # The level is between 0.5 and 1 then: the stopping rule is made for clean signals with a peak of about 1. A
        # power of two rounds nothing.
        peak = np.abs(np.concatenate([level[np.isfinite(level)] for level in (low, high)])).max()
        gain = np.float32(2.0 ** np.ceil(np.log2(peak)))
    lower, upper = (torch.as_tensor(level / gain) for level in (low, high))
    # What comes before the gain of a known operator is clean; that of the stopping rule is taken back.
    back = np.float32(1) if job.known else gain

    def process(chunk: np.ndarray, start: int) -> np.ndarray:
        return back * aspade(torch.from_numpy(chunk / gain), lower, upper, PRESETS[job.spade], variant).numpy()

    return Processor(process, job.recording.sample_rate)


def mask(job: Job) -> Processor:
    """The ideal ratio mask, from the clean signal of the job."""
    assert job.clean is not None
    clean = torch.from_numpy(job.clean)

    def process(chunk: np.ndarray, start: int) -> np.ndarray:
        return ideal_ratio_mask(clean[:, start : start + chunk.shape[1]], torch.from_numpy(chunk)).numpy()

    return Processor(process, job.recording.sample_rate)


def voicefixer(job: Job) -> Processor:
    """VoiceFixer, another package."""
    enhance = external.voicefixer(choose_device(job.config.device))
    return Processor(lambda chunk, start: enhance(chunk), external.RATE)


def resemble_enhance(job: Job) -> Processor:
    """Resemble Enhance, another package."""
    enhance = external.resemble_enhance(choose_device(job.config.device), job.config.seed)
    return Processor(lambda chunk, start: enhance(chunk), external.RATE)


def _family(known: Operator | None) -> str | None:
    """Name of a known distortion."""
    return known.name if isinstance(known, Distortion) else None


def _known_levels(known: Operator) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Lower and upper clipping level of a distortion, and the gain before it.

    In float32 as the samples are: a rounded level must not miss those that were clipped to it.
    """
    if not isinstance(known, Distortion) or known.name not in CLIPPERS or "mix" in known.params:
        raise NldiffError(f"SPADE restores hard clipping only, not {known}")
    params = known.params
    high = np.array(params["threshold"], np.float32)
    low = np.array(-params.get("ratio", 1.0) * params["threshold"], np.float32)
    return low, high, np.float32(10 ** (params.get("gain_db", 0.0) / 20))
