"""Learnable memoryless curves `f_hat(x; psi)` that stand for an unknown distortion.

A waveshaper holds P independent parameter sets and maps audio `[B, T]` elementwise, where B is a multiple of
P: B / P consecutive items (the channels or chunks of one recording) share a parameter set. A new family is
one subclass of `Waveshaper` and one line in `WAVESHAPERS`.

The three families are those of Švento et al., "Estimation and Restoration of Unknown Nonlinear Distortion
using Diffusion" (2025), section 2.
"""

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.operators.operator import Operator

_GRID = 2048


class Waveshaper(nn.Module, Operator):
    """A batch of curves with learnable parameters.

    The parameters are NaN until `reset` or `load_state_dict` is called: a forgotten initialisation shows.

    A family implements `_initialise`, `_combine` and, where a part of the work depends on the input alone,
    `_features`; the base class handles the sharing of parameter sets.

    Args:
        parameter_sets: their number P, at least 1.

    Raises:
        NldiffError: if an option is out of its range.
    """

    parameter_sets: int

    def __init__(self, parameter_sets: int) -> None:
        super().__init__()
        _require(parameter_sets >= 1, "parameter_sets", parameter_sets, "at least 1")
        self.parameter_sets = parameter_sets

    @abstractmethod
    def _initialise(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        """Set all parameters from the observation `[P, N]`; called without gradient."""

    @abstractmethod
    def _combine(self, features: tuple[Tensor, ...]) -> Tensor:
        """Evaluate the curves `[P, N]` from what `_features` returned."""

    def _features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Everything that depends on the input `[P, N]` but not on the parameters."""
        return (x,)

    def forward(self, x: Tensor) -> Tensor:
        """Distort audio.

        Args:
            x: audio `[B, T]`, B a multiple of the number of parameter sets.

        Returns:
            Distorted audio `[B, T]`, differentiable with respect to `x` and the parameters.

        Raises:
            NldiffError: if B is not a multiple of the number of parameter sets.
        """
        return self._combine(self._features(self._group(x))).reshape(x.shape)

    def prepare(self, x: Tensor) -> Callable[[], Tensor]:
        """Fix the input, see `Operator.prepare`.

        Raises:
            NldiffError: if B is not a multiple of the number of parameter sets.
        """
        with torch.no_grad():
            features = self._features(self._group(x.detach()))
        return lambda: self._combine(features).reshape(x.shape)

    @torch.no_grad()
    def reset(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        """Initialise all parameters.

        Args:
            y: observed audio `[B, T]`, B a multiple of the number of parameter sets.
            sources: one CPU generator per parameter set, so that a result does not depend on the batch.

        Raises:
            NldiffError: if the number of items or generators does not fit.
        """
        if len(sources) != self.parameter_sets:
            raise NldiffError(
                f"waveshaper reset: {len(sources)} random generators for {self.parameter_sets} parameter sets"
            )
        self._initialise(self._group(y), sources)

    def _group(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[0] == 0 or x.shape[0] % self.parameter_sets:
            raise NldiffError(
                f"waveshaper input of shape {tuple(x.shape)}: [batch, time] is needed, "
                f"with a multiple of {self.parameter_sets} (the parameter sets) items"
            )
        return x.reshape(self.parameter_sets, -1)


class SumTanh(Waveshaper):
    """Sum of hyperbolic tangents, eq. 11: `sum_{q=1..Q} a_q tanh(q g x) / g`.

    `g` is `input_gain`. With `g = 1` this is the paper's family. Audio at an RMS of 0.06 then uses the almost
    linear part of every term: the terms are nearly collinear (condition number 1e8 on |x| < 0.3), and sharp
    knees need large weights that cancel one another. A larger `g` moves the bends down to the level of the
    audio: knees get sharper, but curves that do not bend below a level of about `1 / g` get worse. The
    division by `g` keeps the slope at zero, `sum_q q a_q`, independent of `g`.

    It starts at `a_1 = 1`, all others 0: slope exactly 1 at zero, and for `g = 1` at most 0.009 away from the
    identity for |x| < 0.3. A least-squares fit of the identity would come closer only by weights that cancel
    one another, from which a gradient method moves slowly.

    Args:
        parameter_sets: their number P.
        order: number Q of terms, at least 1.
        input_gain: g, greater than 0.
    """

    def __init__(self, parameter_sets: int, order: int = 8, input_gain: float = 1.0) -> None:
        super().__init__(parameter_sets)
        _require(order >= 1, "order", order, "at least 1")
        _require(0 < input_gain < math.inf, "input_gain", input_gain, "positive and finite")
        self.input_gain = input_gain
        self.weights = _unset(parameter_sets, order)

    def _initialise(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        self.weights.zero_()
        self.weights[:, 0] = 1

    def _features(self, x: Tensor) -> tuple[Tensor, ...]:
        q = torch.arange(1, self.weights.shape[1] + 1, dtype=x.dtype, device=x.device)
        return (torch.tanh(self.input_gain * q[:, None] * x[:, None]) / self.input_gain,)

    def _combine(self, features: tuple[Tensor, ...]) -> Tensor:
        return torch.bmm(self.weights[:, None], features[0])[:, 0]


class MLP(Waveshaper):
    """Multi-layer perceptron 1 - hidden ... hidden - 1 with ReLU between the layers (section 2.2).

    It starts with Kaiming-normal weights (He et al. 2015: standard deviation `sqrt(2 / inputs)`) and zero
    biases, hence from a random curve of two straight halves that meet at the origin.

    Args:
        parameter_sets: their number P.
        hidden: widths of the hidden layers, each at least 1.
    """

    def __init__(self, parameter_sets: int, hidden: Sequence[int] = (20, 20, 20)) -> None:
        super().__init__(parameter_sets)
        _require(len(hidden) > 0 and min(hidden) >= 1, "hidden", hidden, "one or more positive widths")
        widths = [1, *hidden, 1]
        self.weights = nn.ParameterList(_unset(parameter_sets, o, i) for i, o in pairwise(widths))
        self.biases = nn.ParameterList(_unset(parameter_sets, o, 1) for o in widths[1:])

    def _initialise(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        for weight, bias in zip(self.weights, self.biases, strict=True):
            inputs = weight.shape[2]
            for item, source in zip(weight, sources, strict=True):
                # float32 whatever the type of the parameters: a seed means the same curve in every precision
                normal = torch.randn(item.shape, generator=source, dtype=torch.float32)
                item.copy_(normal * math.sqrt(2 / inputs))
            bias.zero_()

    def prepare(self, x: Tensor) -> Callable[[], Tensor]:
        """Fix the input, see `Waveshaper.prepare`: the curve is evaluated on a fine grid and interpolated.

        The curve is piecewise linear: the result differs from `forward(x)` only where it bends between two of the
        `_GRID` points that span the input, and is ten times as fast for seconds of audio.

        Raises:
            NldiffError: if B is not a multiple of the number of parameter sets.
        """
        inputs = self._group(x.detach())
        low, high = inputs.amin(1, keepdim=True), inputs.amax(1, keepdim=True)
        step = ((high - low) / (_GRID - 1)).clamp(min=torch.finfo(x.dtype).tiny)
        grid = low + step * torch.arange(_GRID, dtype=x.dtype, device=x.device)
        position = (inputs - low) / step
        left = position.long().clamp_(0, _GRID - 2)
        share = position - left

        def interpolated() -> Tensor:
            values = self._combine((grid,))
            start, rise = values[:, :-1].gather(1, left), values.diff(dim=1).gather(1, left)
            return torch.addcmul(start, rise, share).reshape(x.shape)

        return interpolated

    def _combine(self, features: tuple[Tensor, ...]) -> Tensor:
        first, *others = zip(self.weights, self.biases, strict=True)
        # one input channel: a broadcast product is quicker than a matrix product with inner size 1
        h = torch.addcmul(first[1], first[0], features[0][:, None])
        for weight, bias in others:
            h = torch.baddbmm(bias, weight, h.relu_())
        return h[:, 0]


class CatmullRom(Waveshaper):
    """Cubic Catmull-Rom spline through learnable output values at fixed input values (CCR, eq. 12-14).

    `points` grid values lie uniformly on [-1, 1] and are mapped by `sgn(p) ((1 + mu)^|p| - 1) / mu` (mu-law;
    the "- 1" is missing in the printed eq. 14), which packs them around zero where audio is. One more point
    lies beyond each end at `+-(1 + 2 / points)`. As in the paper, the basis of eq. 13 takes the position
    inside a segment as its argument and ignores that segments differ in length: the curve is continuous, its
    slope jumps at the points by the ratio of the lengths. Beyond [-1, 1] it continues as a straight line with
    the slope at the end. It starts with every output value equal to its grid value.

    Args:
        parameter_sets: their number P.
        points: number N of grid points on [-1, 1], odd (one lies at zero), at least 3.
        mu: strength of the mu-law, greater than 0.
    """

    grid: Tensor
    left: Tensor
    width: Tensor
    basis: Tensor

    def __init__(self, parameter_sets: int, points: int = 41, mu: float = 20.0) -> None:
        super().__init__(parameter_sets)
        _require(points >= 3 and points % 2 == 1, "points", points, "an odd number, at least 3")
        _require(0 < mu < math.inf, "mu", mu, "positive and finite")
        self.mu = mu
        p = torch.arange(1 - points, points, 2, dtype=torch.float64) / (points - 1)  # zero is exact
        inner = p.sign() * torch.expm1(p.abs() * math.log1p(mu)) / mu
        beyond = torch.tensor([1 + 2 / points], dtype=torch.float64)
        # the pieces: a line, N - 1 segments, a line; a line measures s in the width of the adjacent segment
        width = inner.diff()
        constants = {
            "grid": torch.cat([-beyond, inner, beyond]),
            "left": torch.cat([inner[:1], inner]),
            "width": torch.cat([width[:1], width, width[-1:]]),
            # row j: the weight b_j(s) of eq. 13 as the coefficients of 1, s, s^2, s^3
            "basis": torch.tensor([[0, -1, 2, -1], [2, 0, -5, 3], [0, 1, 4, -3], [0, 0, -1, 1]]) / 2,
        }
        for name, constant in constants.items():
            self.register_buffer(name, constant.to(torch.get_default_dtype()), persistent=False)
        self.values = _unset(parameter_sets, points + 2)

    def _initialise(self, y: Tensor, sources: Sequence[torch.Generator]) -> None:
        self.values.copy_(self.grid.expand(self.parameter_sets, -1))

    def _features(self, x: Tensor) -> tuple[Tensor, ...]:
        # The inverse mu-law finds the piece ten times faster than a search. A point at a knot that rounding
        # puts into the neighbouring piece does no harm: s is then an ulp outside [0, 1], and so is the value.
        # The clamp follows the conversion so that NaN, by then an arbitrary integer, finds a valid index.
        segments = self.width.numel() - 2
        p = torch.log1p(self.mu * x.detach().abs()).copysign(x.detach()) / math.log1p(self.mu)
        index = ((p + 1) * (segments / 2)).floor().long().add_(1).clamp_(0, segments + 1)

        left, width = self.left.expand(self.parameter_sets, -1), self.width.expand(self.parameter_sets, -1)
        return index, (x - left.gather(1, index)) / width.gather(1, index)

    def _combine(self, features: tuple[Tensor, ...]) -> Tensor:
        # `gather` is several times faster than indexing, and its backward as fast as a hand-written histogram
        index, s = features
        c = self._coefficients()
        y = c[..., 3].gather(1, index)
        for power in (2, 1, 0):
            y = torch.addcmul(c[..., power].gather(1, index), y, s)
        return y

    def _coefficients(self) -> Tensor:
        """Polynomials in s (constant first) of all pieces: line, N - 1 segments, line; `[P, N + 1, 4]`."""
        cubics = self.values.unfold(1, 4, 1) @ self.basis
        first, last = cubics[:, 0], cubics[:, -1]
        flat = torch.zeros_like(first[:, 0])
        before = torch.stack([first[:, 0], first[:, 1], flat, flat], dim=-1)
        after = torch.stack([last.sum(-1), last[:, 1] + 2 * last[:, 2] + 3 * last[:, 3], flat, flat], dim=-1)
        return torch.cat([before[:, None], cubics, after[:, None]], dim=1)


WAVESHAPERS: dict[str, type[Waveshaper]] = {"ccr": CatmullRom, "mlp": MLP, "sumtanh": SumTanh}
"""The families by name."""


def make_waveshaper(name: str, parameter_sets: int, **options: Any) -> Waveshaper:
    """Build a waveshaper of a named family; see `make_family`.

    Args:
        name: a key of `WAVESHAPERS`.
        parameter_sets: their number.
        options: keyword arguments of the family's constructor.
    """
    return make_family(WAVESHAPERS, name, parameter_sets, options)


Family = TypeVar("Family")


def make_family(
    families: Mapping[str, Callable[..., Family]], name: str, parameter_sets: int, options: Mapping[str, Any]
) -> Family:
    """Build one of several families by name.

    Raises:
        NldiffError: if the name or an option is unknown, or an option is out of its range.
    """
    if name not in families:
        raise NldiffError(f"unknown waveshaper '{name}': known are {', '.join(sorted(families))}")
    family = families[name]
    known = [option for option in inspect.signature(family).parameters if option != "parameter_sets"]
    for option in options:
        if option not in known:
            raise NldiffError(f"waveshaper '{name}' has no option '{option}': known are {', '.join(known)}")
    return family(parameter_sets, **options)


def _unset(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.full(shape, math.nan))


def _require(condition: bool, option: str, value: object, need: str) -> None:
    if not condition:
        raise NldiffError(f"waveshaper option {option}={value}: must be {need}")
