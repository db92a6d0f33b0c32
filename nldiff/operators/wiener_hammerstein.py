"""A learnable device: equaliser, curve, equaliser (a Wiener-Hammerstein model), as of Moliner et al. 2025.

The filters are biquads, stable whatever their parameters are, and are applied by their frequency responses. The idea to
fit such operators inside posterior sampling: "Unsupervised Estimation of Nonlinear Audio Effects: Comparing
Diffusion-Based and Adversarial Approaches", arXiv 2504.04751.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nldiff.operators.filters import FILTERS, frequency_response
from nldiff.operators.known import Distortion
from nldiff.operators.operator import Chain, Operator
from nldiff.operators.table import TabulatedCurve
from nldiff.operators.waveshapers import WAVESHAPERS, CatmullRom, Waveshaper, make_family

# Name, frequency in Hz and q that a section starts with; None: the section has no q.
_Section = tuple[str, float, float | None]
BEFORE: tuple[_Section, ...] = (
    ("low_shelf", 150.0, None),
    ("peak", 300.0, 0.7),
    ("peak", 1200.0, 0.7),
    ("high_shelf", 4000.0, None),
)
AFTER: tuple[_Section, ...] = (*BEFORE, ("steep_lowpass", 5000.0, math.sqrt(0.5)))
"""Sections before and behind the curve."""

# Gains are `_GAIN_DB` tanh(parameter); frequencies and q are the start times e to the power `_SPEED` times the
# parameter, within the limits.
_GAIN_DB, _SPEED = 24.0, 3.0
_HZ, _Q, _LOWPASS_Q = (20.0, 18000.0), (0.2, 8.0), (0.5, 1.5)
# Frequencies stay below this share of the sampling rate.
_HIGHEST = 0.47
# Memory that is allowed for, in seconds. Sections of more than 37 Hz bandwidth forget to 60 dB in it, as those do that
# a fit starts from. What narrower ones remember longer comes round from the end of an item to its beginning.
_MEMORY = 0.06
_TABLE_POINTS, _TABLE_LIMIT = 4001, 2.0


class WienerHammerstein(nn.Module, Operator):
    """Equaliser, spline, equaliser and low-pass, with P parameter sets; see `nldiff.operators.waveshapers.Waveshaper`.

    It starts as a low-pass at 5 kHz behind the identity. The equalisers have four sections: shelves of up to 24 dB at
    either end and two peaks. Filters start from rest in every item.

    Args:
        parameter_sets: their number P.
        sample_rate: of the audio, Hz.
        points: of the spline, see `CatmullRom`.
        mu: of the spline.
    """

    parameter_sets: int

    def __init__(self, parameter_sets: int, sample_rate: float = 44100.0, points: int = 41, mu: float = 20.0) -> None:
        super().__init__()
        self.curve = CatmullRom(parameter_sets, points, mu)
        self.parameter_sets, self.sample_rate = parameter_sets, sample_rate
        self.before, self.after = (
            nn.Parameter(torch.full((parameter_sets, len(sections), 3), math.nan)) for sections in (BEFORE, AFTER)
        )

    @property
    def context(self) -> int:  # type: ignore[override]
        """Samples of the past that count."""
        return math.ceil(_MEMORY * self.sample_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Distort audio `[B, T]`, B a multiple of the number of parameter sets."""
        return self._filtered(self.curve(self._filtered(x, self.before, BEFORE)), self.after, AFTER)

    def static(self, x: Tensor) -> Tensor:
        """The curve alone."""
        return self.curve(x)

    def prepare(self, x: Tensor) -> Callable[[], Tensor]:
        """Fix the input, whose spectrum is taken once."""
        with torch.no_grad():
            spectrum = torch.fft.rfft(x.detach(), self._size(x))

        def evaluate() -> Tensor:
            inner = self._back(spectrum * self._response(self.before, BEFORE, spectrum), x)
            return self._filtered(self.curve(inner), self.after, AFTER)

        return evaluate

    @torch.no_grad()
    def reset(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        """Start values."""
        self.curve.reset(y, sources)
        self.before.zero_()
        self.after.zero_()

    def at_rate(self, own: int, other: int) -> Operator:
        """The same device, with the same parameters, for audio at another rate."""
        if own == other:
            return self
        twin = WienerHammerstein.__new__(WienerHammerstein)
        nn.Module.__init__(twin)
        twin.parameter_sets, twin.sample_rate = self.parameter_sets, self.sample_rate * other / own
        twin.curve, twin.before, twin.after = self.curve, self.before, self.after
        return twin

    def for_rate(self, sample_rate: int) -> Operator:
        """For audio at a rate, Hz."""
        return self.at_rate(round(self.sample_rate), sample_rate)

    @torch.no_grad()
    def known(self, index: int = 0) -> Chain:
        """A parameter set as a chain of known filters and a table, which can be saved."""
        filters = []
        for parameters, sections in ((self.before, BEFORE), (self.after, AFTER)):
            values = [self._values(row, section) for row, section in zip(parameters[index], sections, strict=True)]
            filters.append(
                [
                    Distortion(name, {key: float(value) for key, value in told.items()} | {"rate": self.sample_rate})
                    for (name, *_), told in zip(sections, values, strict=True)
                ]
            )
        grid = torch.linspace(-_TABLE_LIMIT, _TABLE_LIMIT, _TABLE_POINTS, dtype=self.before.dtype)
        outputs = self.curve(grid.to(self.before.device).expand(self.parameter_sets, -1))[index]
        return Chain([*filters[0], TabulatedCurve(grid, outputs), *filters[1]])

    def _values(self, row: Tensor, section: _Section) -> dict[str, Tensor]:
        """Parameters of a section by name, from its row `[3]`."""
        name, hz, q = section
        highest = min(_HZ[1], _HIGHEST * self.sample_rate)
        told = {"hz": (hz * torch.exp(_SPEED * row[0])).clamp(_HZ[0], highest)}
        if name != "steep_lowpass":
            told["gain_db"] = _GAIN_DB * torch.tanh(row[1])
        if q is not None:
            limits = _LOWPASS_Q if name == "steep_lowpass" else _Q
            told["q"] = (q * torch.exp(_SPEED * row[2])).clamp(*limits)
        return told

    def _response(self, parameters: Tensor, sections: tuple[_Section, ...], spectrum: Tensor) -> Tensor:
        """Product of the responses of all sections for every item, `[B, bins]`."""
        hz = torch.linspace(0, self.sample_rate / 2, spectrum.shape[1], dtype=torch.float64)
        responses = []
        for rows in parameters.cpu().double():
            response = torch.ones(1, dtype=torch.complex128)
            for row, section in zip(rows, sections, strict=True):
                coefficients = FILTERS[section[0]](self.sample_rate, **self._values(row, section))
                response = response * frequency_response(*coefficients, hz, self.sample_rate)
            responses.append(response.to(spectrum.dtype))
        each = torch.stack(responses).to(spectrum.device)
        return each.repeat_interleave(spectrum.shape[0] // self.parameter_sets, 0)

    def _filtered(self, x: Tensor, parameters: Tensor, sections: tuple[_Section, ...]) -> Tensor:
        spectrum = torch.fft.rfft(x, self._size(x))
        return self._back(spectrum * self._response(parameters, sections, spectrum), x)

    def _size(self, x: Tensor) -> int:
        """Of the transforms: with room for what the filters remember, and few prime factors."""
        wanted, size = x.shape[-1] + self.context, 1
        while size < wanted:
            size *= 2
        return size if wanted > 3 * size // 4 else 3 * size // 4

    @staticmethod
    def _back(spectrum: Tensor, x: Tensor) -> Tensor:
        size = 2 * (spectrum.shape[-1] - 1)
        return torch.fft.irfft(spectrum, size)[..., : x.shape[-1]]


Learnable = Waveshaper | WienerHammerstein
LEARNABLE: dict[str, Callable[..., Learnable]] = {
    **WAVESHAPERS,
    "wiener_hammerstein": WienerHammerstein,
}
"""Operators that are fitted inside posterior sampling, by name."""


def make_learnable(name: str, parameter_sets: int, **options: Any) -> Learnable:
    """Build a learnable operator; see `nldiff.operators.waveshapers.make_family`.

    Args:
        name: a key of `LEARNABLE`.
        parameter_sets: their number.
        options: keyword arguments of its constructor.
    """
    made: Learnable = make_family(LEARNABLE, name, parameter_sets, options)
    return made
