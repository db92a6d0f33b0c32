"""Results: what a method found, and the restored recording at the level of the input."""

import dataclasses
import platform
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nldiff import sound
from nldiff.curves import Curve
from nldiff.figures import plots
from nldiff.operators import Operator
from nldiff.restoration.estimation import Trace, Verdict
from nldiff.restoration.explain import fitted_curve
from nldiff.restoration.settings import Settings
from nldiff.sound.recording import Recording
from nldiff.version import __version__
from nldiff.writing import write_json

# Share of the restored samples within the range of the curve that is shown.
_SHOWN = 0.9999


@dataclass(frozen=True)
class Sampling:
    """How a method with a prior came to its result.

    Attributes:
        prior: name of the prior.
        prior_scores: why it was chosen, see `nldiff.priors.choice.Choice`; empty if it was named.
        settings: of the method, complete.
        cost: mean of eq. 8 over the jointly restored items in every diffusion step; empty if nothing was sampled.
        evaluations: network evaluations per item, those for the operator included.
        trace: how the curve came about, at the prior's level.
        verdict: what the evidence says; None where the operator was known or evidence was not asked for.
    """

    prior: str
    prior_scores: dict[str, float]
    settings: Settings
    cost: tuple[float, ...]
    evaluations: int
    trace: Trace
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Fit:
    """What a method found, at its own level.

    Attributes:
        operator: maps clean signals to observed ones at the method's level; None for methods that find none.
        observation_gain: method's level = `observation_gain` * observed sample.
        seconds: wall time.
        restored_band_hz: upper end of the band that was restored, Hz: that of the recording, or of the method if it is
            lower; above it the result is silent, or observed (`above_band` of `RestoreConfig`).
        weights: name of the network's weights; None for methods without.
        sampling: of methods with a prior.
    """

    operator: Operator | None
    observation_gain: float
    seconds: float
    restored_band_hz: float
    weights: str | None = None
    sampling: Sampling | None = None

    @property
    def unchanged(self) -> bool:
        """Whether the recording comes back as it is, for want of evidence that something happened to it."""
        verdict = self.sampling.verdict if self.sampling else None
        return verdict is not None and verdict.unchanged

    def values(self) -> dict[str, Any]:
        """What reports say of it."""
        sampling = self.sampling
        return {
            "prior": sampling.prior if sampling else None,
            "prior_scores": sampling.prior_scores if sampling else {},
            "settings": dataclasses.asdict(sampling.settings) if sampling else None,
            "verdict": _verdict(sampling.verdict) if sampling else None,
            "cost": sampling.cost if sampling else (),
            "network_evaluations": sampling.evaluations if sampling else 0,
            "seconds": self.seconds,
            "restored_band_hz": self.restored_band_hz,
            "weights": self.weights,
        }


@dataclass(frozen=True)
class Restoration:
    """A restored recording and what distorted it.

    Attributes:
        audio: restored signal, float32, same shape as the input; RMS of the input, never above full scale.
        sample_rate: Hz.
        curve: maps samples of `audio` to samples of the input, any shape; of an operator with memory its static curve.
        explained_db: SDR of the operator's output for `audio` against the input, dB.
        method: its name.
        gain: `audio` is the result at the method's level times this.
        fit: what the method found, at its own level.
        config: the `RestoreConfig` as a dictionary.
        known: text of the operator, where it was known.
        versions: of nldiff, torch and Python.
    """

    audio: np.ndarray
    sample_rate: int
    curve: Curve
    explained_db: float
    method: str
    gain: float
    fit: Fit
    config: dict[str, Any]
    known: str | None = None
    versions: dict[str, str] = field(default_factory=lambda: versions())

    @property
    def evolution(self) -> tuple[np.ndarray, np.ndarray] | None:
        """How the curve came about: samples of `audio` [points], and of the input after every step [steps, points].

        The last row is the curve before the refinement, which changes it once more. None for methods without sampling.
        """
        if self.fit.sampling is None:
            return None
        trace = self.fit.sampling.trace
        return trace.inputs * self.gain, trace.curves / self.fit.observation_gain

    def scaled(self, factor: float) -> "Restoration":
        """The same restoration with `factor` times the amplitude."""
        audio = (self.audio * factor).astype(np.float32)
        return replace(self, audio=audio, gain=self.gain * factor, curve=self.curve.scaled(factor))

    def save(self, folder: str | Path, stem: str = "audio") -> None:
        """Write STEM.restored.wav (float32), STEM.curve.csv, STEM.curve.png and STEM.json, as `nldiff restore` does.

        Every file is written completely or not at all; the folder is created if needed.

        Raises:
            NldiffError: a file cannot be written.
        """
        base, audio = Path(folder), np.atleast_2d(self.audio)
        sound.write_wav(base / f"{stem}.restored.wav", audio, self.sample_rate)
        self.curve.save(base / f"{stem}.curve.csv")
        plots.save_figure(self.curve.plot(audio), base / f"{stem}.curve.png")
        report = {
            "sample_rate": self.sample_rate,
            "channels": audio.shape[0],
            "frames": audio.shape[1],
            "known": self.known,
            "config": self.config,
            "seed": self.config["seed"],
            "versions": self.versions,
            **self.fit.values(),
            "method": self.method,
            "restored": f"{stem}.restored.wav",
            "curve_range": shown_range(audio),
            "explained_db": self.explained_db,
            "gain": self.gain,
        }
        write_json(base / f"{stem}.json", report)


def settle(
    fit: Fit, recording: Recording, raw: Callable[[int, int], np.ndarray], gain: float | None = None
) -> tuple[float, Callable[[np.ndarray], np.ndarray], float]:
    """Bring a restoration from the method's level to the recording's, reading both piecewise.

    Args:
        fit: what the method found; without an operator, the curve from the result to the recording is fitted.
        recording: the observation.
        raw: (start, frames) -> what the method emitted, [channels, frames].
        gain: of the result; None finds it.

    Returns:
        The gain, which by default gives `raw` the RMS and polarity of the recording (less if it would exceed full
        scale), the curve from samples so scaled to observed samples, and the SDR of that explanation in dB.
    """
    if fit.operator is None:
        fit = replace(fit, operator=fitted_curve(recording, raw))
    if gain is None:
        gain = 1 / fit.observation_gain if fit.unchanged else _matching_gain(recording, raw)
    error = observed_power = 0.0
    for start, frames in recording.blocks():
        y = recording.read(start, frames).astype(np.float64)
        error += np.sum((y - _explained(fit, gain, raw, start, frames)) ** 2)
        observed_power += np.sum(y**2)
    return gain, user_curve(fit, gain), float(10 * np.log10(observed_power / max(error, 1e-30)))


def user_curve(fit: Fit, gain: float) -> Callable[[np.ndarray], np.ndarray]:
    """The curve from samples of the output, which is `gain` times the method's level, to observed samples."""
    operator = fit.operator
    assert operator is not None

    def curve(samples: np.ndarray) -> np.ndarray:
        return _apply(operator.static, operator, np.divide(samples, gain)) / fit.observation_gain

    return curve


def shown_range(samples: np.ndarray) -> float:
    """The amplitude that almost all samples are within; beyond it a curve is a guess."""
    return float(np.quantile(np.abs(samples), _SHOWN))


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    confidence = {"confidence": verdict.judgement.confidence} if verdict.judgement else {}
    return dataclasses.asdict(verdict) | {"margin": verdict.margin, "warnings": verdict.warnings} | confidence


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"nldiff": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _matching_gain(recording: Recording, raw: Callable[[int, int], np.ndarray]) -> float:
    """The gain that gives `raw` the RMS and polarity of the recording; less if it would exceed full scale."""
    power = observed_power = product = total = observed_total = peak = 0.0
    for start, frames in recording.blocks():
        x, y = (read(start, frames).astype(np.float64) for read in (raw, recording.read))
        power, observed_power, product = power + np.sum(x**2), observed_power + np.sum(y**2), product + np.sum(x * y)
        total, observed_total, peak = total + x.sum(), observed_total + y.sum(), max(peak, np.abs(x).max())
    samples = recording.channels * recording.frames
    gain = sound.match_level((power / samples) ** 0.5, peak, (observed_power / samples) ** 0.5)
    # A blind method cannot tell (x, f) from (-x, f(-.)): the sign of the observation is the natural choice. Means are
    # left out: a constant that the curve added says nothing of the sign.
    covariance = product - total * observed_total / samples
    return float(-gain if covariance < 0 else gain)


def _explained(fit: Fit, gain: float, raw: Callable[[int, int], np.ndarray], start: int, frames: int) -> np.ndarray:
    """What the operator makes of the restoration, [channels, frames] in the units of the recording."""
    operator = fit.operator
    assert operator is not None
    before = min(start, operator.context)
    x = np.divide(raw(start - before, before + frames) * gain, gain)
    return np.stack([_apply(operator, operator, channel) for channel in x])[:, before:] / fit.observation_gain


@torch.no_grad()
def _apply(function: Callable[[torch.Tensor], torch.Tensor], operator: Operator, x: np.ndarray) -> np.ndarray:
    """A function of tensors [1, n] where the operator is, of an array of any shape; computed in float32."""
    device = next((p.device for p in getattr(operator, "parameters", list)()), torch.device("cpu"))
    inputs = torch.from_numpy(np.asarray(x, dtype=np.float32)).to(device)
    return function(inputs.reshape(1, -1)).reshape(inputs.shape).cpu().double().numpy()
