"""The table of known distortions, and `Distortion`, one of them with its parameters.

A new distortion is a function in `nldiff.operators.distortions` and an entry of `DISTORTIONS`.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import distortions
from nldiff.operators.filters import (
    FILTERS,
    Coefficients,
    Inversion,
    apply_filter,
    fir,
    frequency_response,
    inverse_filter,
    memory_of,
)
from nldiff.operators.operator import Operator


@dataclass(frozen=True)
class Parameter:
    """Default and inclusive range of a distortion's parameter."""

    default: float
    low: float
    high: float


@dataclass(frozen=True)
class Memory:
    """What the table knows about a distortion with memory; everything is called with the parameters as keywords.

    Attributes:
        context: number of past samples that an output sample depends on, to 60 dB.
        static: the curve without the filters, called with the audio first.
        at_rate: parameters that change with the sample rate, called with the ratio of the old to the new rate first.
    """

    context: Callable[..., int]
    static: Callable[..., Tensor]
    at_rate: Callable[..., Mapping[str, float]]


@dataclass(frozen=True)
class DistortionSpec:
    """What the table knows about a distortion.

    Attributes:
        function: maps audio, called with the audio and the parameters as keywords.
        parameters: name -> default and range.
        calibrated: name of the parameter that sets the input SDR, or None.
        bracket: peak of the signal -> two values of that parameter between which the SDR is searched, the
            more distorting one first.
        keeps_level: False if the output is louder by a gain that says nothing of a restoration.
        memory: None for a curve.
        coefficients: of a linear filter, called with the parameters; None for others.
        inverse: what undoes it, called with the parameters.
        in_hertz: the distortion takes the sample rate as `rate`.
    """

    function: Callable[..., Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    calibrated: str | None = None
    bracket: Callable[[float], tuple[float, float]] = lambda peak: (1e-6 * peak, peak)
    keeps_level: bool = True
    memory: Memory | None = None
    coefficients: Callable[..., Coefficients] | None = None
    inverse: Callable[..., Inversion | None] = lambda **params: None
    in_hertz: bool = False


def _size(default: float) -> Parameter:
    return Parameter(default, 1e-20, 1e20)


# weight of the distorted signal, a parameter of every distortion
_MIX = Parameter(1.0, 0.0, 1.0)
# defaults and ranges are SoX's
_SOX = {"gain_db": Parameter(20.0, 0.0, 100.0), "colour": Parameter(20.0, 0.0, 100.0)}

# sample rate of the audio, a parameter of what is told in Hz; `Operator.for_rate` sets it where it is not given
_RATE = Parameter(44100.0, 1.0, 1e9)
_FILTER_PARAMETERS = {
    "hz": Parameter(1000.0, 0.1, 20000.0),
    "gain_db": Parameter(6.0, -60.0, 60.0),
    "q": Parameter(math.sqrt(0.5), 0.05, 100.0),
}
# a filter above the band of a lower rate becomes one at this fraction of that rate
_HIGHEST = 0.49


def _linear(
    coefficients: Callable[..., Coefficients], parameters: Mapping[str, Parameter], in_hertz: bool
) -> DistortionSpec:
    """The entry of a linear filter."""

    def at_rate(ratio: float, **params: float) -> dict[str, float]:
        rate = params.get("rate", 1.0) / ratio
        return {"rate": rate, "hz": min(params["hz"], _HIGHEST * rate)} if in_hertz else {}

    return DistortionSpec(
        lambda x, **params: apply_filter(x, *coefficients(**params)),
        parameters,
        keeps_level=False,
        memory=Memory(
            context=lambda **params: memory_of(*coefficients(**params)),
            static=lambda x, **params: x,
            at_rate=at_rate,
        ),
        coefficients=coefficients,
        inverse=lambda **params: inverse_filter(*coefficients(**params)),
        in_hertz=in_hertz,
    )


def _undo_overdrive(gain_db: float, colour: float, pole: float) -> Inversion:
    from nldiff.operators.overdrive import undo  # numba takes its time

    def step(observed: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if gain_db == 0:
            return observed, states
        x, after = np.empty(observed.shape), states.copy()
        for channel, samples in enumerate(np.ascontiguousarray(observed, dtype=np.float64)):
            params = 10 ** (gain_db / 20), colour / 200, pole
            after[channel, 0] = undo(samples, float(states[channel, 0]), *params, x[channel])
        return x, after

    return Inversion(np.zeros(1), step)


def _undo_gain(gain_db: float) -> Inversion | None:
    return inverse_filter(*fir(b0=10 ** (gain_db / 20)))


def _filter(name: str) -> DistortionSpec:
    """The entry of a key of `FILTERS`."""
    taken = list(inspect.signature(FILTERS[name]).parameters)[1:]
    return _linear(FILTERS[name], {key: _FILTER_PARAMETERS[key] for key in taken}, in_hertz=True)


DISTORTIONS: dict[str, DistortionSpec] = {
    "hard_clip": DistortionSpec(
        lambda x, threshold: distortions.hard_clip(x, -threshold, threshold), {"threshold": _size(0.1)}, "threshold"
    ),
    # the lower limit is -ratio * threshold
    "asymmetric_clip": DistortionSpec(
        lambda x, threshold, ratio: distortions.hard_clip(x, -ratio * threshold, threshold),
        {"threshold": _size(0.1), "ratio": Parameter(0.5, 0.0, 1.0)},
        "threshold",
        lambda peak: (1e-6 * peak, 1e3 * peak),
    ),
    # the louder output differs from the input by much more than its distortion: no input SDR. The paper does not
    # give the threshold; 1 is the full scale of audio files
    "amplified_clip": DistortionSpec(
        distortions.amplified_clip, {"gain_db": Parameter(35.0, 0.0, 100.0), "threshold": _size(1.0)}, keeps_level=False
    ),
    "soft_clip": DistortionSpec(
        distortions.tanh_clip, {"gain": _size(10.0)}, "gain", lambda peak: (1e6 / peak, 1e-3 / peak)
    ),
    "soft_clip_r": DistortionSpec(
        distortions.soft_clip,
        {"threshold": _size(0.1), "hardness": Parameter(0.5, 0.0, 1.0)},
        "threshold",
        lambda peak: (1e-6 * peak, 1e3 * peak),
    ),
    "wavefold": DistortionSpec(distortions.wavefold, {"threshold": _size(0.1)}, "threshold"),
    # the SDR need not rise steadily with these two: the calibration then finds one of several values
    "triangle_fold": DistortionSpec(distortions.triangle_fold, {"threshold": _size(0.1)}, "threshold"),
    "sine_fold": DistortionSpec(
        distortions.sine_fold, {"amplitude": _size(0.1)}, "amplitude", lambda peak: (1e-6 * peak, 1e3 * peak)
    ),
    # the SDR need not fall steadily with the step: the calibration then finds one of several
    "quantize": DistortionSpec(
        distortions.quantize, {"step": _size(0.125)}, "step", lambda peak: (2 * peak, 1e-6 * peak)
    ),
    "half_wave": DistortionSpec(distortions.half_wave),
    "full_wave": DistortionSpec(distortions.full_wave),
    "carbon_mic": DistortionSpec(
        distortions.carbon_mic, {"asymmetry": Parameter(0.5, 1e-6, 1 - 1e-6), "gain": Parameter(2.0, 1e-6, 1e6)}
    ),
    "overdrive_static": DistortionSpec(distortions.overdrive_static, _SOX, keeps_level=False),
    # the time in which the filter forgets is the device's, in seconds: its pole changes with the rate
    "overdrive": DistortionSpec(
        distortions.sox_overdrive,
        {**_SOX, "pole": Parameter(0.995, 1e-6, 1 - 1e-6)},
        keeps_level=False,
        memory=Memory(
            context=lambda gain_db, colour, pole: math.ceil(math.log(1e-3) / math.log(pole)),
            static=lambda x, gain_db, colour, pole: (
                distortions.overdrive_static(x, gain_db, colour) if gain_db else x.clamp(-1, 1)
            ),
            at_rate=lambda ratio, gain_db, colour, pole: {"pole": pole**ratio},
        ),
        inverse=_undo_overdrive,
    ),
    "gain": DistortionSpec(
        distortions.gain, {"gain_db": _FILTER_PARAMETERS["gain_db"]}, keeps_level=False, inverse=_undo_gain
    ),
    # taps are samples apart, whatever the rate
    "fir": _linear(fir, {f"b{k}": Parameter(float(k == 0), -1e6, 1e6) for k in range(8)}, in_hertz=False),
    **{name: _filter(name) for name in FILTERS},
}
"""The distortions by name."""


@dataclass(frozen=True)
class Distortion(Operator):
    """A known distortion with its parameters: `Distortion("hard_clip", {"threshold": 0.1})(x)`.

    With the parameter `mix` = α, of 0 to 1, the output is `α f(x) + (1 - α) x` (eq. 1 of Imort et al. 2022);
    every distortion takes it.

    Parameters left out take their defaults. `str()` gives the text that `parse_operator` reads.

    Attributes:
        name: a key of `DISTORTIONS`.
        params: all parameters by name, in the table's order, then `rate`, the sample rate of what is told in Hz, if it
            was given (44.1 kHz else, see `for_rate`), and `mix` if it is not 1.

    Raises:
        NldiffError: if the name or a parameter is unknown, or a value is out of its range.
    """

    name: str
    params: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check the parameters and fill in the defaults."""
        check_parameters(self.name, self.params)
        spec = DISTORTIONS[self.name]
        params = {key: float(self.params.get(key, known.default)) for key, known in spec.parameters.items()}
        if "rate" in self.params:
            params["rate"] = float(self.params["rate"])
        context = spec.memory.context(**self._told(params)) if spec.memory else 0
        if self.params.get("mix", 1) != 1:
            params["mix"] = float(self.params["mix"])
        for key, value in (("params", params), ("context", context), ("keeps_level", spec.keeps_level)):
            object.__setattr__(self, key, value)

    def forward(self, x: Tensor) -> Tensor:
        """Distort `x` of any shape, along the last axis."""
        return self._mixed(x, DISTORTIONS[self.name].function)

    def static(self, x: Tensor) -> Tensor:
        """Apply the static curve to `x` of any shape, elementwise."""
        spec = DISTORTIONS[self.name]
        return self._mixed(x, spec.memory.static if spec.memory else spec.function)

    def at_rate(self, own: int, other: int) -> Operator:
        """The same device at another rate, see `Operator.at_rate`."""
        memory = DISTORTIONS[self.name].memory
        changes = memory.at_rate(own / other, **self._own_params) if memory and own != other else {}
        return Distortion(self.name, {**self.params, **changes}) if changes else self

    def for_rate(self, sample_rate: int) -> Operator:
        """For audio at a rate, see `Operator.for_rate`."""
        unknown = DISTORTIONS[self.name].in_hertz and "rate" not in self.params
        return Distortion(self.name, {**self.params, "rate": sample_rate}) if unknown else self

    def inversion(self) -> Inversion | None:
        """What undoes it, see `Operator.inversion`; None with a dry path."""
        return None if "mix" in self.params else DISTORTIONS[self.name].inverse(**self._own_params)

    def frequency_response(self, hz: Tensor) -> Tensor | None:
        """Complex response of a linear filter at the frequencies `hz` `[F]`, at its rate; None for others."""
        design, rate = DISTORTIONS[self.name].coefficients, self.params.get("rate", _RATE.default)
        return (
            frequency_response(*design(**self._own_params), hz, rate) if design and "mix" not in self.params else None
        )

    def __str__(self) -> str:
        """Write as `name:parameter=value,...`."""
        assignments = ",".join(f"{key}={value!r}" for key, value in self.params.items())
        return f"{self.name}:{assignments}" if assignments else self.name

    @property
    def _own_params(self) -> dict[str, float]:
        return self._told({key: value for key, value in self.params.items() if key != "mix"})

    def _told(self, params: dict[str, float]) -> dict[str, float]:
        """Parameters with the sample rate, if the distortion takes it."""
        return {"rate": _RATE.default, **params} if DISTORTIONS[self.name].in_hertz else params

    def _mixed(self, x: Tensor, function: Callable[..., Tensor]) -> Tensor:
        return torch.lerp(x, function(x, **self._own_params), self.params.get("mix", 1.0))


def known_spec(name: str) -> DistortionSpec:
    """The entry of `DISTORTIONS`.

    Raises:
        NldiffError: if the name is unknown.
    """
    if name not in DISTORTIONS:
        raise NldiffError(f"unknown distortion {name!r}: known are {', '.join(DISTORTIONS)}")
    return DISTORTIONS[name]


def check_parameters(name: str, params: Mapping[str, float]) -> None:
    """Validate parameters of a distortion.

    Raises:
        NldiffError: if the name or a parameter is unknown, or a value is out of its range.
    """
    spec = known_spec(name)
    table = {**spec.parameters, **({"rate": _RATE} if spec.in_hertz else {}), "mix": _MIX}
    for key, value in params.items():
        if key not in table:
            raise NldiffError(f"distortion '{name}' has no parameter {key!r}: known are {', '.join(table)}")
        if not table[key].low <= value <= table[key].high:
            raise NldiffError(
                f"distortion '{name}': {key}={value:g} is out of range ({table[key].low:g} to {table[key].high:g})"
            )
    if "rate" in params:
        hz, half = params.get("hz", spec.parameters["hz"].default), params["rate"] / 2
        if hz >= half:
            raise NldiffError(f"distortion '{name}': hz={hz:g} is not below half the rate, {half:g}")
