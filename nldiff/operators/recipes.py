"""Operators as users write them: the one parser of known distortions and chains.

A distortion is written as `name`, `name:parameter=value,...`, or with the input SDR in place of the calibrated
parameter: `hard_clip:sdr=3`. Every one takes the weight of the distorted signal as `mix`: `half_wave:mix=0.7`.
` > ` joins distortions to a chain, and `; mix=value` at its end gives the weight against the dry path round all of it:
`hard_clip:sdr=3 > overdrive:gain_db=20; mix=0.5`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators.calibration import calibrate, calibrated_parameter
from nldiff.operators.known import Distortion, check_parameters
from nldiff.operators.operator import Chain, Operator


class Part(NamedTuple):
    """Name of a distortion and the parameters that were given, `sdr` (dB) and `mix` among them."""

    name: str
    params: Mapping[str, float]


@dataclass(frozen=True)
class Recipe:
    """A known operator that may depend on the signal, as an input SDR does.

    Attributes:
        text: what `parse_operator` reads.
        parts: distortions, one after the other.
        mix: weight of the chain against the dry path round it.

    Raises:
        NldiffError: if a name or parameter is unknown, a value is out of its range, or an SDR is given for a
            distortion without calibration or together with the parameter that it determines.
    """

    text: str
    parts: tuple[Part, ...]
    mix: float = 1.0

    def __post_init__(self) -> None:
        """Validate all parts."""
        for name, params in self.parts:
            others = {key: value for key, value in params.items() if key != "sdr"}
            check_parameters(name, others)
            if "sdr" in params:
                calibrated_parameter(name, params["sdr"], others)
        if not 0 <= self.mix <= 1:
            raise NldiffError(f"distortion {self.text!r}: mix={self.mix:g} is out of range (0 to 1)")

    @property
    def family(self) -> str:
        """Names of the distortions, joined as in the text."""
        return " > ".join(part.name for part in self.parts)

    @property
    def level(self) -> tuple[float | None, str]:
        """Number in dB that tells how strong a distortion is and what it is called; None and "" without one."""
        for key, name in (("sdr", "input SDR"), ("gain_db", "gain")) if len(self.parts) == 1 else ():
            if key in self.parts[0].params:
                return self.parts[0].params[key], name
        return None, ""

    @property
    def needs_clean(self) -> bool:
        """Whether an input SDR is given, which takes the clean signal to compute."""
        return any("sdr" in part.params for part in self.parts)

    def build(self, clean: Tensor | None, sample_rate: int | None = None) -> Operator:
        """Make the operator; an SDR is that of the signal that enters its part.

        Args:
            clean: the clean signal, any shape with time last; None if it is not known.
            sample_rate: of the audio, Hz, see `Operator.for_rate`; None leaves that for later.

        Raises:
            NldiffError: if an SDR is given without the clean signal, or cannot be reached with it.
        """
        if clean is None and self.needs_clean:
            raise NldiffError(f"{self.text}: parameters expected, an sdr cannot be computed without the clean signal")
        operators: list[Operator] = []
        for i, (name, params) in enumerate(self.parts):
            if clean is not None and i:
                clean = operators[-1](clean)
            if clean is None or "sdr" not in params:
                operator: Operator = Distortion(name, params)
            else:
                operator = calibrate(name, clean, **params)
            operators.append(operator.for_rate(sample_rate) if sample_rate else operator)
        return operators[0] if len(operators) == 1 and self.mix == 1 else Chain(operators, self.mix)


def parse_operator(text: str) -> Recipe:
    """Read a distortion or a chain of distortions, for example `"soft_clip:sdr=3,mix=0.5"`.

    Raises:
        NldiffError: as `Recipe`; if a value is no number, or the text is not of the form that the module describes.
    """
    chain, semicolon, dry_path = " ".join(text.split()).partition(";")
    parts = []
    for part in chain.split(">"):
        name, _, assignments = part.strip().partition(":")
        parts.append(Part(name.strip(), _parameters(text, assignments)))
    if not semicolon:
        return Recipe(text, tuple(parts))
    mix = _parameters(text, dry_path)
    if list(mix) != ["mix"]:
        raise NldiffError(f"distortion {text!r}: '; mix=value' expected at the end of a chain, nothing else")
    return Recipe(text, tuple(parts), mix["mix"])


def _parameters(text: str, assignments: str) -> dict[str, float]:
    """Read `parameter=value,...` of a text."""
    params: dict[str, float] = {}
    for assignment in assignments.split(",") if assignments else []:
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise NldiffError(f"distortion {text!r}: '{assignment}' is not of the form parameter=value")
        if key in params:
            raise NldiffError(f"distortion {text!r}: '{key}' is given twice")
        try:
            params[key] = float(value)
        except ValueError:
            raise NldiffError(f"distortion {text!r}: {key}={value} is not a number") from None
    return params
