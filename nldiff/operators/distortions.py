"""Known memoryless distortions and their calibration to an input SDR.

The curves are those evaluated by Švento et al. (2025), section 3.1.1, the full-wave rectifier, and two of
Imort et al. (2022): clipping after amplification, and SoX's overdrive without its filter (with the filter it
has memory: `nldiff.operators.overdrive`). All of them are elementwise, keep shape and type, and are differentiable
almost everywhere.

A distortion is written as `name`, `name:parameter=value,...`, or with the input SDR in place of the
calibrated parameter: `hard_clip:sdr=3`. Every one takes the weight of the distorted signal as `mix`:
`half_wave:mix=0.7` or `hard_clip:sdr=3,mix=0.7`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from nldiff.errors import NldiffError


def hard_clip(x: Tensor, low: float, high: float) -> Tensor:
    """Limit to `[low, high]`."""
    return x.clamp(low, high)


def amplified_clip(x: Tensor, gain_db: float, threshold: float) -> Tensor:
    """Amplify, then limit to `[-threshold, threshold]`: eq. 2 and 3 of Imort et al. (2022).

    The output is louder than the input by `gain_db` where nothing is limited. With `g = 10^(gain_db / 20)`
    it is g times the output of the hard clipper at `threshold / g`.
    """
    return hard_clip(_amplitude(gain_db) * x, -threshold, threshold)


def tanh_clip(x: Tensor, gain: float) -> Tensor:
    """Saturate softly: `tanh(g x) / g`, slope 1 at zero, limits `+-1 / g`."""
    return torch.tanh(gain * x) / gain


def soft_clip(x: Tensor, threshold: float, hardness: float) -> Tensor:
    """Saturate with an adjustable knee, after Defraene et al. (2012).

    With limit U, hardness r and `u = (|x| - r U) / (U - r U)`: `x` where `u <= 0`, elsewhere
    `sgn(x) (r U + (U - r U) tanh(u))`. r = 0 is `U tanh(x / U)`, r = 1 the hard clipper;
    the slope is continuous for r < 1. The formula follows descriptions of that work and was not checked
    against the printed paper.
    """
    linear = x.clamp(-hardness * threshold, hardness * threshold)
    span = (1 - hardness) * threshold
    return linear + span * torch.tanh((x - linear) / span) if span > 0 else linear


def wavefold(x: Tensor, threshold: float) -> Tensor:
    """Fold once: `x` for `|x| < t`, otherwise `sgn(x) (2 t - |x|)`."""
    return 2 * x.clamp(-threshold, threshold) - x


def quantize(x: Tensor, step: float) -> Tensor:
    """Round to multiples of `step` (mid-tread: zero is a level); ties go to the even multiple.

    The true derivative is zero almost everywhere and would silence the guidance through a known quantiser.
    The backward pass therefore takes the derivative of the identity, which is what the staircase follows on
    average (straight-through estimator, Bengio et al. 2013).
    """
    levels = step * torch.round(x.detach() / step)
    return levels + (x - x.detach())  # adds an exact zero with slope 1


def half_wave(x: Tensor) -> Tensor:
    """Keep the positive half: `max(x, 0)`."""
    return torch.relu(x)


def full_wave(x: Tensor) -> Tensor:
    """Rectify both halves: `|x|`."""
    return x.abs()


def carbon_mic(x: Tensor, asymmetry: float, gain: float) -> Tensor:
    """Carbon microphone: `(1 - a) x / (1 - a g x)` (Quatieri et al. 2000; Oksanen and Välimäki 2011).

    The curve has a pole at `x = 1 / (a g)`. From 99 % of the pole upwards the output stays at the value it
    has there, so it is finite, continuous and rising for every input.
    """
    x = x.clamp(max=0.99 / (asymmetry * gain))
    return (1 - asymmetry) * x / (1 - asymmetry * gain * x)


def cubic_clip(x: Tensor) -> Tensor:
    """Saturate softly at `+-2 / 3`: `x - x^3 / 3` for `|x| <= 1`, constant outside; the slope is continuous."""
    x = x.clamp(-1, 1)
    return x - x**3 / 3


def overdrive_static(x: Tensor, gain_db: float, colour: float) -> Tensor:
    """Curve of SoX's overdrive: what `nldiff.operators.overdrive.sox_overdrive` does, but for its filter.

    With `c = colour / 200`, `g = 10^(gain_db / 20)` and w the cubic clipper:
    `x / 2 + 3 / 4 (w(g x + c) - w(c))`, limited to `[-1, 1]`. The offset c makes the curve asymmetric. The
    filter removes whatever mean the clipper leaves; the curve subtracts its value at silence. 0 dB, where SoX
    leaves the signal alone, is no exception here.
    """
    offset = torch.tensor(colour / 200, dtype=x.dtype, device=x.device)
    wet = cubic_clip(_amplitude(gain_db) * x + offset) - cubic_clip(offset)
    return (x / 2 + 0.75 * wet).clamp(-1, 1)


@dataclass(frozen=True)
class Parameter:
    """Default and inclusive range of a distortion's parameter."""

    default: float
    low: float
    high: float


@dataclass(frozen=True)
class DistortionSpec:
    """What the table knows about a distortion.

    Attributes:
        function: the curve, called with the audio and the parameters as keywords.
        parameters: name -> default and range.
        calibrated: name of the parameter that sets the input SDR, or None.
        bracket: peak of the signal -> two values of that parameter between which the SDR is searched, the
            more distorting one first.
    """

    function: Callable[..., Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    calibrated: str | None = None
    bracket: Callable[[float], tuple[float, float]] = lambda peak: (1e-6 * peak, peak)


def _size(default: float) -> Parameter:
    return Parameter(default, 1e-20, 1e20)


# weight of the distorted signal, a parameter of every distortion
_MIX = Parameter(1.0, 0.0, 1.0)

DISTORTIONS: dict[str, DistortionSpec] = {
    "hard_clip": DistortionSpec(
        lambda x, threshold: hard_clip(x, -threshold, threshold), {"threshold": _size(0.1)}, "threshold"
    ),
    # the lower limit is -ratio * threshold
    "asymmetric_clip": DistortionSpec(
        lambda x, threshold, ratio: hard_clip(x, -ratio * threshold, threshold),
        {"threshold": _size(0.1), "ratio": Parameter(0.5, 0.0, 1.0)},
        "threshold",
        lambda peak: (1e-6 * peak, 1e3 * peak),
    ),
    # the louder output differs from the input by much more than its distortion: no input SDR. The paper does not
    # give the threshold; 1 is the full scale of audio files
    "amplified_clip": DistortionSpec(amplified_clip, {"gain_db": Parameter(35.0, 0.0, 100.0), "threshold": _size(1.0)}),
    "soft_clip": DistortionSpec(tanh_clip, {"gain": _size(10.0)}, "gain", lambda peak: (1e6 / peak, 1e-3 / peak)),
    "soft_clip_r": DistortionSpec(
        soft_clip,
        {"threshold": _size(0.1), "hardness": Parameter(0.5, 0.0, 1.0)},
        "threshold",
        lambda peak: (1e-6 * peak, 1e3 * peak),
    ),
    "wavefold": DistortionSpec(wavefold, {"threshold": _size(0.1)}, "threshold"),
    # the SDR need not fall steadily with the step: the calibration then finds one of several
    "quantize": DistortionSpec(quantize, {"step": _size(0.125)}, "step", lambda peak: (2 * peak, 1e-6 * peak)),
    "half_wave": DistortionSpec(half_wave),
    "full_wave": DistortionSpec(full_wave),
    "carbon_mic": DistortionSpec(
        carbon_mic, {"asymmetry": Parameter(0.5, 1e-6, 1 - 1e-6), "gain": Parameter(2.0, 1e-6, 1e6)}
    ),
    # defaults and ranges are SoX's
    "overdrive_static": DistortionSpec(
        overdrive_static, {"gain_db": Parameter(20.0, 0.0, 100.0), "colour": Parameter(20.0, 0.0, 100.0)}
    ),
}
"""The distortions by name."""


@dataclass(frozen=True)
class Distortion:
    """A named curve with its parameters: `Distortion("hard_clip", {"threshold": 0.1})(x)`.

    With the parameter `mix` = α, of 0 to 1, the output is `α f(x) + (1 - α) x` (eq. 1 of Imort et al. 2022);
    every distortion takes it.

    Parameters left out take their defaults. `str()` gives the text that `parse_distortion` reads.

    Attributes:
        name: a key of `DISTORTIONS`.
        params: all parameters by name, in the table's order, then `mix` if it is not 1.

    Raises:
        NldiffError: if the name or a parameter is unknown, or a value is out of its range.
    """

    name: str
    params: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the parameters and fill in the defaults."""
        table = _spec(self.name).parameters
        for key, value in self.params.items():
            _check_parameter(self.name, key, value)
        params = {key: float(self.params.get(key, known.default)) for key, known in table.items()}
        if self.params.get("mix", 1) != 1:
            params["mix"] = float(self.params["mix"])
        object.__setattr__(self, "params", params)

    def __call__(self, x: Tensor) -> Tensor:
        """Distort `x`, elementwise, any shape."""
        curve = {key: value for key, value in self.params.items() if key != "mix"}
        return torch.lerp(x, _spec(self.name).function(x, **curve), self.params.get("mix", 1.0))

    def __str__(self) -> str:
        """Write as `name:parameter=value,...`."""
        assignments = ",".join(f"{key}={value!r}" for key, value in self.params.items())
        return f"{self.name}:{assignments}" if assignments else self.name


def parse_distortion(text: str) -> tuple[str, dict[str, float]]:
    """Read `name` or `name:parameter=value,...`.

    Args:
        text: for example `"hard_clip:threshold=0.1"`, `"soft_clip:sdr=3,mix=0.5"` or `"half_wave"`.

    Returns:
        The name and the parameters that were given. If `"sdr"` (dB) is among them, the distortion is
        `calibrate(name, x, **params)`, otherwise `Distortion(name, params)`.

    Raises:
        NldiffError: for an unknown name or parameter, a value that is no number or out of its range, or an
            SDR that is given for a distortion without calibration or together with the parameter it
            determines.
    """
    name, _, rest = text.strip().partition(":")
    _spec(name)
    params: dict[str, float] = {}
    for assignment in rest.split(",") if rest else []:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise NldiffError(f"distortion '{text}': '{assignment}' is not of the form parameter=value")
        if key in params:
            raise NldiffError(f"distortion '{text}': '{key}' is given twice")
        try:
            params[key] = float(value)
        except ValueError:
            raise NldiffError(f"distortion '{text}': {key}={value} is not a number") from None
        if key == "sdr":
            _calibrated_parameter(name, params[key])
        else:
            _check_parameter(name, key, params[key])
    if "sdr" in params and _spec(name).calibrated in params:
        raise NldiffError(f"distortion '{text}': give either sdr or {_spec(name).calibrated}, not both")
    return name, params


def input_sdr(x: Tensor, y: Tensor) -> float:
    """Input signal-to-distortion ratio `20 log10(‖x‖ / ‖x - y‖)`, dB, over all samples; infinite if y = x."""
    error = torch.linalg.vector_norm((x - y).double()).item()
    signal = torch.linalg.vector_norm(x.double()).item()
    if error == 0:
        return math.inf
    return 20 * math.log10(signal / error) if signal > 0 else -math.inf


def calibrate(name: str, x: Tensor, sdr: float, **params: float) -> Distortion:
    """Find the distortion that brings the signal to an input SDR.

    Args:
        name: a distortion with a calibrated parameter.
        x: the clean signal, any shape; the SDR is taken over all its samples.
        sdr: the target, dB; met within 0.001 dB.
        params: the distortion's other parameters; the SDR is that of the mixture if `mix` is one of them.

    Raises:
        NldiffError: if the distortion has no calibrated parameter, it is given in `params`, the signal is
            silent or not finite, or no value of the parameter gives this SDR.
    """
    key = _calibrated_parameter(name, sdr)
    if key in params:
        raise NldiffError(f"distortion '{name}': give either sdr or {key}, not both")
    x = x.detach().double().cpu()
    peak = x.abs().max().item() if x.numel() else 0.0
    if not 0 < peak < math.inf:
        raise NldiffError(f"distortion '{name}': cannot be calibrated to a signal that is silent or not finite")

    def excess(value: float) -> float:
        # no distortion at all is an infinite SDR; the root finder needs a finite one
        return min(input_sdr(x, Distortion(name, {**params, key: value})(x)), 1000.0) - sdr

    worst, best = _spec(name).bracket(peak)
    at_worst, at_best = excess(worst), excess(best)
    value = brentq(excess, worst, best, xtol=1e-300, maxiter=1000) if at_worst * at_best <= 0 else worst
    if abs(excess(value)) > 1e-3:
        raise NldiffError(
            f"distortion '{name}': an input SDR of {sdr:g} dB cannot be reached with this signal "
            f"({key} from {worst:.3g} to {best:.3g} gives {at_worst + sdr:.2f} to {at_best + sdr:.2f} dB)"
        )
    return Distortion(name, {**params, key: value})


def estimate_input_rms(distortion: Distortion, rms_y: float) -> float:
    """Estimate the level of the clean signal from that of the distorted one, for a known distortion.

    Samples of music and speech are taken to follow a Laplace distribution, represented by its quantiles; the
    result is the smallest RMS whose distorted quantiles have the RMS `rms_y`.

    Args:
        distortion: the known distortion.
        rms_y: RMS of the distorted signal, greater than 0.

    Returns:
        RMS of the clean signal, searched from 0.001 to 1000 times `rms_y`; `rms_y` itself if none in that
        range fits, for example because a clipper never gets that loud.

    Raises:
        NldiffError: if `rms_y` is not positive and finite.
    """
    if not 0 < rms_y < math.inf:
        raise NldiffError(f"RMS of the distorted signal is {rms_y}: must be positive and finite")
    count = 4096
    half = -torch.log((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    quantiles = torch.cat([-half, half])
    quantiles /= quantiles.square().mean().sqrt()

    def excess(rms_x: float) -> float:
        return distortion(rms_x * quantiles).square().mean().sqrt().item() - rms_y

    candidates = rms_y * np.geomspace(1e-3, 1e3, 121)
    previous = excess(candidates[0])
    for low, high in pairwise(candidates):
        current = excess(high)
        if previous * current <= 0:
            return float(brentq(excess, low, high))
        previous = current
    return rms_y


def _amplitude(gain_db: float) -> float:
    return 10 ** (gain_db / 20)


def _spec(name: str) -> DistortionSpec:
    if name not in DISTORTIONS:
        raise NldiffError(f"unknown distortion '{name}': known are {', '.join(DISTORTIONS)}")
    return DISTORTIONS[name]


def _check_parameter(name: str, key: str, value: float) -> None:
    table = {**_spec(name).parameters, "mix": _MIX}
    if key not in table:
        raise NldiffError(f"distortion '{name}' has no parameter '{key}': known are {', '.join(table)}")
    if not table[key].low <= value <= table[key].high:
        raise NldiffError(
            f"distortion '{name}': {key}={value:g} is out of range ({table[key].low:g} to {table[key].high:g})"
        )


def _calibrated_parameter(name: str, sdr: float) -> str:
    """Name of the parameter that the SDR determines, after checking that both make sense."""
    key = _spec(name).calibrated
    if key is None:
        able = ", ".join(known for known, spec in DISTORTIONS.items() if spec.calibrated)
        raise NldiffError(f"distortion '{name}' cannot be calibrated to an input SDR: {able} can")
    if not math.isfinite(sdr):
        raise NldiffError(f"distortion '{name}': sdr={sdr} is not a finite number of dB")
    return key
