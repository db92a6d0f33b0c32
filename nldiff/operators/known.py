"""The table of known distortions, and `Distortion`, one of them with its parameters.

A new distortion is a function in `nldiff.operators.distortions` and an entry of `DISTORTIONS`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import distortions
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
    """

    function: Callable[..., Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    calibrated: str | None = None
    bracket: Callable[[float], tuple[float, float]] = lambda peak: (1e-6 * peak, peak)
    keeps_level: bool = True
    memory: Memory | None = None


def _size(default: float) -> Parameter:
    return Parameter(default, 1e-20, 1e20)


# weight of the distorted signal, a parameter of every distortion
_MIX = Parameter(1.0, 0.0, 1.0)
# defaults and ranges are SoX's
_SOX = {"gain_db": Parameter(20.0, 0.0, 100.0), "colour": Parameter(20.0, 0.0, 100.0)}

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
    ),
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
        params: all parameters by name, in the table's order, then `mix` if it is not 1.

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
        context = spec.memory.context(**params) if spec.memory else 0
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
        if memory is None or own == other:
            return self
        return Distortion(self.name, {**self.params, **memory.at_rate(own / other, **self._own_params)})

    def __str__(self) -> str:
        """Write as `name:parameter=value,...`."""
        assignments = ",".join(f"{key}={value!r}" for key, value in self.params.items())
        return f"{self.name}:{assignments}" if assignments else self.name

    @property
    def _own_params(self) -> dict[str, float]:
        return {key: value for key, value in self.params.items() if key != "mix"}

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
    table = {**known_spec(name).parameters, "mix": _MIX}
    for key, value in params.items():
        if key not in table:
            raise NldiffError(f"distortion '{name}' has no parameter {key!r}: known are {', '.join(table)}")
        if not table[key].low <= value <= table[key].high:
            raise NldiffError(
                f"distortion '{name}': {key}={value:g} is out of range ({table[key].low:g} to {table[key].high:g})"
            )
