"""The contract of an operator, and operators that are made of others: `Rescaled`, `Chain` and `AtRate`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.operators.filters import Inversion

# Samples after which a resampler's filter counts as forgotten.
_RINGING = 1024


@dataclass(frozen=True)
class Portrait:
    """What tables and pictures show of an operator.

    Attributes:
        inputs: values of the clean signal, `[G]`.
        curve: what every parameter set makes of them, `[P, G]`; for an operator with memory its static curve.
    """

    inputs: Tensor
    curve: Tensor


class Operator(ABC):
    """What maps clean to observed audio, `[B, T]` to `[B, T]`, differentiable with respect to audio and parameters.

    The class has no constructor: a family of learnable operators inherits from `nn.Module` as well, `nn.Module` first.

    Attributes:
        parameter_sets: number P of parameter sets; they serve P groups of consecutive items. None: one operator for
            any number of items.
        context: number of past samples that an output sample depends on, to 60 dB; 0 for a curve.
        keeps_level: False if the output is louder by a gain that says nothing of a restoration.
    """

    parameter_sets: int | None = None
    context: int = 0
    keeps_level: bool = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Distort audio `[B, T]`."""

    def __call__(self, x: Tensor) -> Tensor:
        """Distort audio, see `forward`."""
        return self.forward(x)

    def static(self, x: Tensor) -> Tensor:
        """Apply the static curve, elementwise: the operator without its filters."""
        return self(x)

    def prepare(self, x: Tensor) -> Callable[[], Tensor]:
        """Fix the input, to evaluate the operator many times while only its parameters change.

        Args:
            x: audio `[B, T]`; no gradient flows to it.

        Returns:
            A function without arguments that equals `forward(x)` for the parameters at the time of its call.
        """
        fixed = x.detach()
        return lambda: self(fixed)

    def reset(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        """Initialise the parameters, if there are any.

        Args:
            y: observed audio `[B, T]`.
            sources: one CPU generator per parameter set, so that a result does not depend on the batch.
        """
        return

    def trainable(self) -> list[nn.Parameter]:
        """Parameters that require a gradient."""
        return [p for p in self.parameters() if p.requires_grad] if isinstance(self, nn.Module) else []

    def at_level(self, level: float) -> Operator:
        """The same operator for audio that was multiplied by `level`: `g f(x / g)`."""
        return Rescaled(self, level, level)

    def at_rate(self, own: int, other: int) -> Operator:
        """The same device for audio at the rate `other` instead of `own`, Hz; a curve returns itself."""
        return self

    def for_rate(self, sample_rate: int) -> Operator:
        """The operator for audio at a sample rate, Hz, where it has frequencies and was not told a rate yet."""
        return self

    def inversion(self) -> Inversion | None:
        """What undoes the operator sample by sample; None for those with which that is not possible, or not done."""
        return None

    @torch.no_grad()
    def portrait(self, inputs: Tensor) -> Portrait:
        """Sample the static curve of every parameter set at the values `inputs` `[G]`, without gradient."""
        return Portrait(inputs, self.static(inputs.expand(self.parameter_sets or 1, -1)))

    def __str__(self) -> str:
        """One line for messages and reports; that of known distortions and their chains can be parsed again."""
        return type(self).__name__


class Identity(Operator):
    """What leaves audio as it is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x

    def inversion(self) -> Inversion:
        """The identity."""
        return Inversion(np.zeros(0), lambda observed, states: (observed, states))


class Rescaled(nn.Module, Operator):
    """An operator in other units: `y = f(x / input_level) * output_level`.

    Args:
        operator: f.
        input_level: value of `x` that f takes as 1; negative to turn the signal upside down.
        output_level: value of `y` for an output of 1, likewise.

    Raises:
        NldiffError: if a level is zero or not finite.
    """

    def __init__(self, operator: Operator, input_level: float, output_level: float) -> None:
        super().__init__()
        for name, level in (("input_level", input_level), ("output_level", output_level)):
            if not math.isfinite(level) or level == 0:
                raise NldiffError(f"rescaled operator: {name}={level}: a finite number other than 0 expected")
        self.operator, self.input_level, self.output_level = operator, input_level, output_level
        self.parameter_sets, self.context = operator.parameter_sets, operator.context
        self.keeps_level = operator.keeps_level

    def forward(self, x: Tensor) -> Tensor:
        """Distort audio `[B, T]`."""
        return self.operator(x / self.input_level) * self.output_level

    def static(self, x: Tensor) -> Tensor:
        """Apply the static curve, elementwise."""
        return self.operator.static(x / self.input_level) * self.output_level

    def prepare(self, x: Tensor) -> Callable[[], Tensor]:
        """Fix the input, see `Operator.prepare`."""
        evaluate = self.operator.prepare(x / self.input_level)
        return lambda: evaluate() * self.output_level

    def reset(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        """Initialise the operator from the observation in its own units."""
        self.operator.reset(y / self.output_level, sources)

    def at_rate(self, own: int, other: int) -> Operator:
        """The same device at another rate, see `Operator.at_rate`."""
        operator = self.operator.at_rate(own, other)
        return self if operator is self.operator else Rescaled(operator, self.input_level, self.output_level)

    def for_rate(self, sample_rate: int) -> Operator:
        """For audio at a rate, see `Operator.for_rate`."""
        return Rescaled(self.operator.for_rate(sample_rate), self.input_level, self.output_level)

    def inversion(self) -> Inversion | None:
        """That of the operator, in other units."""
        inner = self.operator.inversion()
        if inner is None:
            return None
        step = inner.step

        def rescaled(observed: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x, states = step(observed / self.output_level, states)
            return x * self.input_level, states

        return replace(inner, step=rescaled)

    def __str__(self) -> str:
        """The operator and its levels."""
        return f"{self.operator} (levels {self.input_level:.4g}, {self.output_level:.4g})"


class Chain(nn.Module, Operator):
    """Operators one after the other, with a dry path round all of them: `mix * f_n(... f_1(x)) + (1 - mix) * x`.

    `str()` of a chain of known distortions gives the text that `parse_operator` reads.

    Args:
        operators: f_1 to f_n, at least one.
        mix: weight of the distorted signal, 0 to 1.

    Raises:
        NldiffError: if there are no operators, their numbers of parameter sets differ, or `mix` is out of its range.
    """

    def __init__(self, operators: Sequence[Operator], mix: float = 1.0) -> None:
        super().__init__()
        sets = {operator.parameter_sets for operator in operators} - {None}
        if not operators or len(sets) > 1:
            raise NldiffError("chain: one or more operators with the same number of parameter sets expected")
        if not 0 <= mix <= 1:
            raise NldiffError(f"chain: mix={mix:g} is out of range (0 to 1)")
        self.operators, self.mix = tuple(operators), mix
        for i, operator in enumerate(operators):
            if isinstance(operator, nn.Module):
                self.add_module(str(i), operator)
        self.parameter_sets = next(iter(sets), None)
        self.context = sum(operator.context for operator in operators)
        self.keeps_level = all(operator.keeps_level for operator in operators)

    def forward(self, x: Tensor) -> Tensor:
        """Distort audio `[B, T]`."""
        return torch.lerp(x, _through(self.operators, x), self.mix)

    def static(self, x: Tensor) -> Tensor:
        """Apply the static curves of all operators and the dry path, elementwise."""
        return torch.lerp(x, _through([operator.static for operator in self.operators], x), self.mix)

    def prepare(self, x: Tensor) -> Callable[[], Tensor]:
        """Fix the input, see `Operator.prepare`; what comes before the first trainable operator is evaluated once."""
        learns = [bool(operator.trainable()) for operator in self.operators]
        first = learns.index(True) if any(learns) else len(learns) - 1
        dry = x.detach()
        with torch.no_grad():
            evaluate = self.operators[first].prepare(_through(self.operators[:first], dry))
        return lambda: torch.lerp(dry, _through(self.operators[first + 1 :], evaluate()), self.mix)

    def reset(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        """Initialise the operators in order, each from the observation: the signals between them are unknown."""
        for operator in self.operators:
            operator.reset(y, sources)

    def at_rate(self, own: int, other: int) -> Operator:
        """The same device at another rate, see `Operator.at_rate`."""
        operators = [operator.at_rate(own, other) for operator in self.operators]
        unchanged = all(a is b for a, b in zip(operators, self.operators, strict=True))
        return self if unchanged else Chain(operators, self.mix)

    def for_rate(self, sample_rate: int) -> Operator:
        """For audio at a rate, see `Operator.for_rate`."""
        return Chain([operator.for_rate(sample_rate) for operator in self.operators], self.mix)

    def inversion(self) -> Inversion | None:
        """The inverses of all operators in reverse order; None with a dry path."""
        inverses = [operator.inversion() for operator in reversed(self.operators)]
        if self.mix != 1 or None in inverses:
            return None
        known = [inverse for inverse in inverses if inverse]
        ends = np.cumsum([0, *(len(inverse.start) for inverse in known)])

        def step(observed: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            after = []
            for inverse, start, end in zip(known, ends, ends[1:], strict=False):
                observed, state = inverse.step(observed, states[:, start:end])
                after.append(state)
            return observed, np.concatenate(after, axis=1)

        start = np.concatenate([inverse.start for inverse in known])
        return Inversion(start, step, all(inverse.exact for inverse in known))

    def __str__(self) -> str:
        """Write as `first > second; mix=value`."""
        return " > ".join(map(str, self.operators)) + (f"; mix={self.mix!r}" if self.mix != 1 else "")


class AtRate(nn.Module, Operator):
    """A device that worked at another sample rate: resampled to it, distorted, and resampled back.

    Unlike all others it looks ahead, as far as it looks back: an ideal low-pass has no delay.

    Args:
        operator: the device, for audio at `rate`; filters that were not told a rate are told this one.
        rate: Hz.
        outer_rate: of the audio, Hz.

    Raises:
        NldiffError: if a rate is no whole number from 1 to 1 000 000.
    """

    def __init__(self, operator: Operator, rate: int, outer_rate: int) -> None:
        super().__init__()
        for value in (rate, outer_rate):
            if type(value) is not int or not 1 <= value <= 1_000_000:
                raise NldiffError(f"device at another rate: {value!r}: a whole number from 1 to 1000000 expected")
        self.operator, self.rate, self.outer_rate = operator.for_rate(rate), rate, outer_rate
        self.parameter_sets, self.keeps_level = operator.parameter_sets, operator.keeps_level
        self.context = -(-(operator.context + _RINGING) * outer_rate // rate)

    def forward(self, x: Tensor) -> Tensor:
        """Distort audio `[B, T]`."""
        inside = _resampled(x, self.outer_rate, self.rate)
        return _resampled(self.operator(inside), self.rate, self.outer_rate)[:, : x.shape[1]]

    def static(self, x: Tensor) -> Tensor:
        """Apply the static curve, elementwise."""
        return self.operator.static(x)

    def reset(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        """Initialise the operator from the observation at its rate."""
        self.operator.reset(_resampled(y, self.outer_rate, self.rate), sources)

    def at_rate(self, own: int, other: int) -> Operator:
        """The same device, which stays at its rate, for audio at another."""
        return self.operator if other == self.rate else AtRate(self.operator, self.rate, other)

    def __str__(self) -> str:
        """The device and its rate."""
        return f"{self.operator} at {self.rate} Hz"


def _resampled(x: Tensor, rate: int, other: int) -> Tensor:
    """Audio [B, T] at another rate, by an ideal low-pass; silence follows it. At least as long as it was."""
    step = rate // math.gcd(rate, other)
    length = -(-(x.shape[1] + _RINGING) // step) * step
    bins, wanted = length // 2 + 1, length * other // rate
    spectrum = torch.fft.rfft(x, length)
    spectrum = nn.functional.pad(spectrum, (0, wanted // 2 + 1 - bins))
    return torch.fft.irfft(spectrum, wanted) * (other / rate)


def _through(functions: Sequence[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    return reduce(lambda signal, function: function(signal), functions, x)
