"""The methods that restore from signal to signal: trained networks, sparsity, the ideal ratio mask, other packages.

They run over a recording chunk by chunk, as blind restoration does, and find no curve: that between what they made
and the recording is fitted afterwards.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nldiff import sound
from nldiff.baselines import external
from nldiff.baselines.aspade import PRESETS, Variant, aspade, detect_clipping
from nldiff.baselines.ideal_ratio_mask import ideal_ratio_mask
from nldiff.baselines.networks import NETWORKS
from nldiff.baselines.saved import SHIPPED, Baseline, load_baseline
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators.distortions import Distortion
from nldiff.operators.waveshapers import CatmullRom
from nldiff.restoration.restore import Fit
from nldiff.restoration.settings import RestoreConfig
from nldiff.sampling.posterior import SamplerSettings
from nldiff.sound.chunks import chunk_starts, joined
from nldiff.sound.rates import above_band, from_rate
from nldiff.sound.recording import Recording

BLIND = "blind"
"""Name of the method that is none of these: posterior sampling with a prior, `nldiff.restoration.restore`."""

CLIPPERS = ("hard_clip", "asymmetric_clip", "amplified_clip")
"""Distortions that declipping is made for."""

# Hz -> distortion -> end of the name of the weights that were trained for it at that rate.
_TRAINED = {
    44100: {"hard_clip": "hardclip", "soft_clip": "softclip", "soft_clip_r": "softclip"},
    16000: {
        "hard_clip": "hardclip-16k",
        "amplified_clip": "hardclip-16k",
        "overdrive": "overdrive",
        "overdrive_static": "overdrive",
    },
}
_BINS = 4096
# RMS that the spline has its points for, and how much a change of its slope weighs against errors at that level: enough
# to draw straight lines where there are no samples.
_CURVE_RMS, _SMOOTHNESS = 0.06, 1e-8


@dataclass(frozen=True)
class Job:
    """What a method may want to know.

    Attributes:
        recording: what is to be restored.
        config: device, and seed for methods that draw random numbers.
        weights: name or path of the network's weights; None chooses them.
        known: the distortion in units of the recording's samples, where it is known.
        clean: the clean signal [channels, frames], for those that are allowed to look at it.
        spade: key of `nldiff.baselines.aspade.PRESETS`.
    """

    recording: Recording
    config: RestoreConfig
    weights: str | None = None
    known: Distortion | None = None
    clean: np.ndarray | None = None
    spade: str = "short"


@dataclass(frozen=True)
class Restorer:
    """A method that is ready for one recording.

    Attributes:
        process: (chunk [channels, time] float32 at `sample_rate`, its first frame in the recording) -> restored chunk
            of the same shape, float32.
        sample_rate: Hz at which it works.
        weights: name of the network's weights; None where there are none.
    """

    process: Callable[[np.ndarray, int], np.ndarray]
    sample_rate: int
    weights: str | None = None


def shipped_weights(network: str, family: str, sample_rate: int) -> str | None:
    """Shipped weights of a network for a distortion and a rate (Hz) by name; None where there are none."""
    name = f"{network}-{_TRAINED.get(sample_rate, {}).get(family)}"
    return name if name in SHIPPED else None


def choose_weights(network: str, recording: Recording, known: Distortion | None = None) -> str:
    """Shipped weights of a network for a recording, of the lowest rate that keeps its band if there are any.

    They are those for the known distortion. Where it is not known, those for hard clipping if samples stay at an
    extreme value (`clipping_levels`), else those for softer distortions.

    Raises:
        NldiffError: none are shipped.
    """
    if known:
        families: tuple[str, ...] = (known.name,)
    else:
        clipped = np.isfinite(clipping_levels(recording)).any()
        families = ("hard_clip",) if clipped else ("soft_clip", "overdrive")
    for rate in sorted(_TRAINED, key=lambda rate: (rate < recording.sample_rate, abs(rate - recording.sample_rate))):
        for family in families:
            if name := shipped_weights(network, family, rate):
                return name
    raise NldiffError(f"no weights of {network} for {' or '.join(families)} are shipped: name a file of weights")


def clipping_levels(recording: Recording) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper level at which a recording stays, see `detect_clipping`; float32 [channels] each."""
    extremes = np.array([[np.inf], [-np.inf]], np.float32).repeat(recording.channels, axis=1)
    levels = -extremes
    for start, frames in recording.blocks():
        block = torch.from_numpy(recording.read(start, frames))
        found = [level.numpy() for level in detect_clipping(block)]
        for i, (extreme, further) in enumerate(zip(block.aminmax(dim=1), (np.less, np.greater), strict=True)):
            value = extreme.numpy()
            beyond = further(value, extremes[i])
            # Beyond all blocks before, or as far and the first to stay there.
            new = beyond | ((value == extremes[i]) & np.isfinite(found[i]))
            levels[i, new], extremes[i, beyond] = found[i][new], value[beyond]
    return levels[0], levels[1]


def process_blocks(
    recording: Recording,
    restorer: Restorer,
    config: RestoreConfig,
    emit: Callable[[np.ndarray], None],
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Restore piece by piece: `emit` gets consecutive blocks [channels, n], in order, at the method's own level.

    Args:
        recording: the observation.
        restorer: made for it.
        config: chunks, and what becomes of the band above the method's rate.
        emit: takes the blocks.
        on_step: called with (chunks done, chunks in all).

    Raises:
        NldiffError: the method fails or returns something that is not finite.
    """
    starts, length = chunk_starts(recording, config.chunk_seconds, config.overlap_seconds)
    given, used = recording.sample_rate, restorer.sample_rate

    def restored(start: int) -> np.ndarray:
        observed = recording.read(start, length)
        made = restorer.process(sound.resample(observed, given, used), start)
        if not np.isfinite(made).all():
            raise NldiffError(f"NaN or infinite samples in the result for {recording.name}")
        piece = from_rate(made, used, given, length)
        keep = config.above_band == "keep" and given > used
        return piece + above_band(observed, given, used) if keep else piece

    for done, block in enumerate(joined(map(restored, starts), starts, recording.frames), 1):
        emit(block)
        if on_step:
            on_step(done, len(starts))


def explain(recording: Recording, restorer: Restorer, raw: Callable[[int, int], np.ndarray], started: float) -> Fit:
    """Fit the curve from a restoration to the recording, for `nldiff.restoration.restore.settle`.

    The spline of the 2025 paper (`CatmullRom`), which is linear in its control values, in the sense of least squares:
    the samples are counted in 4096 bins, and the mean of the observed samples of every bin is fitted.

    Args:
        recording: the observation.
        restorer: the method.
        raw: (start, frames) -> what `process_blocks` emitted, [channels, frames].
        started: `time.monotonic()` at the beginning of the work.

    Raises:
        NldiffError: the restoration is silent.
    """
    seconds = time.monotonic() - started
    power = peak = 0.0
    for start, frames in recording.blocks():
        x = raw(start, frames).astype(np.float64)
        power, peak = power + np.sum(x**2), max(peak, float(np.abs(x).max()))
    if peak < sound.SILENCE_PEAK:
        raise NldiffError(f"the result for {recording.name} is silent")
    gain = _CURVE_RMS / (power / (recording.channels * recording.frames)) ** 0.5
    counts, sums = np.zeros(_BINS), np.zeros(_BINS)
    for start, frames in recording.blocks():
        x, y = (read(start, frames).ravel().astype(np.float64) for read in (raw, recording.read))
        index = ((x / peak + 1) / 2 * _BINS).astype(int).clip(0, _BINS - 1)
        counts += np.bincount(index, minlength=_BINS)
        sums += np.bincount(index, y, minlength=_BINS)
    centres = ((np.arange(_BINS) + 0.5) / _BINS * 2 - 1) * peak
    filled = counts > 0
    spline = least_squares_spline(
        centres[filled] * gain, sums[filled] / counts[filled] * gain, counts[filled] / counts.sum()
    )

    def curve(x: Tensor) -> Tensor:
        return spline(x * gain) / gain

    band = min(recording.sample_rate, restorer.sample_rate) / 2
    return Fit(curve, 1.0, (), 0, seconds, SamplerSettings(), band, np.zeros(0), np.zeros((0, 0)))


@torch.no_grad()
def least_squares_spline(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> CatmullRom:
    """The `CatmullRom` spline nearest to points `x`, `y` [points], |x| about 0.06; `weights` [points] add up to 1."""
    spline = CatmullRom(1).double()
    unknowns = spline.values.shape[1]
    basis = CatmullRom(unknowns).double()
    basis.values.copy_(torch.eye(unknowns))
    design = basis.curve(torch.from_numpy(x)).numpy().T
    grid = spline.grid.numpy()
    bends = np.diff(np.diff(np.eye(unknowns), axis=0) / np.diff(grid)[:, None], axis=0)
    root = np.sqrt(weights)[:, None]
    system = np.concatenate([root * design, _SMOOTHNESS**0.5 * bends])
    target = np.concatenate([root[:, 0] * y, np.zeros(len(bends))])
    spline.values.copy_(torch.from_numpy(np.linalg.lstsq(system, target)[0]))
    return spline.float().requires_grad_(False)


def _network(network: str, job: Job) -> Restorer:
    """A trained network."""
    device = choose_device(job.config.device)
    baseline = _loaded(job.weights or choose_weights(network, job.recording, job.known), device)

    def process(chunk: np.ndarray, start: int) -> np.ndarray:
        return baseline(torch.from_numpy(chunk).to(device)).cpu().numpy()

    return Restorer(process, baseline.sample_rate, baseline.name)


@cache
def _loaded(weights: str, device: torch.device) -> Baseline:
    return load_baseline(weights, device)


def _spade(variant: Variant, job: Job) -> Restorer:
    """A-SPADE or S-SPADE: told the clipping levels, or with those that the signal shows."""
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
    levels = [torch.as_tensor(level / gain) for level in (low, high)]

    def process(chunk: np.ndarray, start: int) -> np.ndarray:
        return aspade(torch.from_numpy(chunk / gain), levels[0], levels[1], PRESETS[job.spade], variant).numpy()

    return Restorer(process, job.recording.sample_rate)


def _known_levels(known: Distortion) -> tuple[np.ndarray, np.ndarray, np.float32]:
    """Lower and upper clipping level of a distortion, and the gain before it.

    In float32 as the samples are: a rounded level must not miss those that were clipped to it.
    """
    params = known.params
    if known.name not in CLIPPERS or "mix" in params:
        raise NldiffError(f"SPADE restores hard clipping only, not {known}")
    high = np.array(params["threshold"], np.float32)
    low = np.array(-params.get("ratio", 1.0) * params["threshold"], np.float32)
    return low, high, np.float32(10 ** (params.get("gain_db", 0.0) / 20))


def _mask(job: Job) -> Restorer:
    """The ideal ratio mask."""
    if job.clean is None:
        raise NldiffError("irm needs the clean signal: only with --distort, where INPUT is clean")
    clean = torch.from_numpy(job.clean)

    def process(chunk: np.ndarray, start: int) -> np.ndarray:
        return ideal_ratio_mask(clean[:, start : start + chunk.shape[1]], torch.from_numpy(chunk)).numpy()

    return Restorer(process, job.recording.sample_rate)


def _enhancer(enhance: external.Enhancer) -> Restorer:
    """Another package."""
    return Restorer(lambda chunk, start: enhance(chunk), external.RATE)


RESTORERS: dict[str, Callable[[Job], Restorer]] = {
    **{name: partial(_network, name) for name in NETWORKS},
    "aspade": partial(_spade, "analysis"),
    "sspade": partial(_spade, "synthesis"),
    "irm": _mask,
    "voicefixer": lambda job: _enhancer(external.voicefixer(choose_device(job.config.device))),
    "resemble-enhance": lambda job: _enhancer(
        external.resemble_enhance(choose_device(job.config.device), job.config.seed)
    ),
}
"""Name to what makes the method for a recording; it raises NldiffError where it cannot."""


def make_restorer(name: str, job: Job) -> Restorer:
    """Make a method for a recording.

    Args:
        name: key of `RESTORERS`, or name or path of a network's weights.
        job: the recording and what else the method may want to know.

    Raises:
        NldiffError: the name is unknown, or the method cannot be used for this recording.
    """
    if name in RESTORERS:
        return RESTORERS[name](job)
    return _network("", replace(job, weights=name))


def check_method(name: str, weights: str | None = None) -> None:
    """Find out before the work whether a method and its weights exist.

    Args:
        name: "blind", or as `make_restorer`.
        weights: name or path of weights, for networks only.

    Raises:
        NldiffError: they do not.
    """
    if weights and name not in NETWORKS:
        raise NldiffError(f"--weights {weights}: only with a network as --method ({', '.join(NETWORKS)})")
    if name not in (BLIND, *RESTORERS) and name not in SHIPPED and not Path(name).is_file():
        raise NldiffError(f"unknown method '{name}' (known: {', '.join((BLIND, *RESTORERS, *SHIPPED))}, or a file)")
    if weights or name not in (BLIND, *RESTORERS):
        _loaded(weights or name, torch.device("cpu"))
