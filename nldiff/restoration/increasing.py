"""Increasing curves: which curves count as increasing, plain ones, and what one leaves open of the clean signal."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from nldiff.errors import require
from nldiff.operators import Operator, TabulatedCurve
from nldiff.restoration.feasible import Intervals


@dataclass(frozen=True)
class CurveSettings:
    """How an increasing curve is estimated and how exactly it binds the clean signal; the group `curve`.

    Attributes:
        tolerance: of the curve, as a fraction of the observation's RMS.
        points: of its table.
        steep_slope: least slope that counts as steep. Errors of the observation grow by at most its inverse there.
        rare_share: share of the samples below which extreme values do not determine the curve.
        unexplained_power: largest error of a sampled curve, as a fraction of the observation's power; a curve with a
            larger one says nothing of the clean samples.
        monotone_excess: a curve counts as increasing if forcing it to be multiplies its squared error by less than
            this.
        largest_rms: largest clean sample, in multiples of the RMS.
        knee_headroom: end of the plain curve with a round knee, in multiples of the extreme observed values.
        iterations_divisor: refinements that only serve the curve take this fraction of the signal's iterations.
        loosening: tolerance in the rounds of fitting a sampled curve, in multiples of the last one. Samples that are
            held in the intervals of a wrong curve would confirm it.
        halvings: how often the tolerance is halved at most.
        spread_growth: how much `spread` may grow at every halving, nats. Noise that does not fit into the intervals
            makes it grow by more.
        exact_after: number of halvings after which noise is weak enough for samples to count as exact where the curve
            is steep.
    """

    tolerance: float = 1 / 25
    points: int = 4096
    steep_slope: float = 0.5
    rare_share: float = 1e-4
    unexplained_power: float = 0.3
    monotone_excess: float = 2.0
    largest_rms: float = 12.0
    knee_headroom: float = 1.02
    iterations_divisor: int = 4
    loosening: tuple[float, ...] = (4, 2, 1)
    halvings: int = 5
    spread_growth: float = 0.04
    exact_after: int = 2

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "curve", ("tolerance", "steep_slope", "largest_rms", "knee_headroom"), above=0)
        require(self, "curve", ("rare_share",), above=0, below=0.5)
        require(self, "curve", ("unexplained_power", "monotone_excess", "spread_growth"), above=0)
        require(self, "curve", ("halvings", "exact_after"), least=0)
        require(self, "curve", ("points",), least=2)
        require(self, "curve", ("iterations_divisor", "loosening"), least=1)


@dataclass(frozen=True)
class IncreasingCurve:
    """A non-decreasing curve and how exactly it is known.

    Attributes:
        table: the curve; its outputs never fall.
        tolerance: how far its outputs may be off, in their units.
        steep_slope: see `CurveSettings`.
        exact_where_steep: observed values count as exact where the curve is steep.
    """

    table: TabulatedCurve
    tolerance: float
    steep_slope: float = 0.5
    exact_where_steep: bool = False

    def feasible(self, observed: Tensor) -> Intervals:
        """Intervals of the clean samples of `observed` [batch, time]; those of an item do not depend on the others.

        Observed values are known to the curve's tolerance, or to half the distance to the next other value of the item
        if that is larger, as it is between the levels of a quantiser. Beyond the outermost values the distance is taken
        to be the same as on their inner side. Where the curve counts as exact the tolerance is zero.
        """
        low, high = zip(*map(self._bounds, observed), strict=True)
        return Intervals(torch.stack(low), torch.stack(high))

    def _bounds(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Smallest and largest clean value for every sample of one item [time]; may be infinite."""
        # The CPU: not every accelerator has float64.
        values, which = torch.unique(observed.cpu().double(), return_inverse=True)
        bounds = self._interval(values, self.tolerance)
        if self.exact_where_steep:
            steep = (bounds[1] - bounds[0]) * self.steep_slope <= 2 * self.tolerance
            exact = self._interval(values, 0.0)
            bounds = torch.where(steep, exact[0], bounds[0]), torch.where(steep, exact[1], bounds[1])
        low, high = (bound[which].to(observed.dtype).to(observed.device) for bound in bounds)
        return low, high

    def _interval(self, values: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
        """Smallest and largest clean value of different, ascending observed values [n]."""
        margins = values.new_full((len(values) + 1,), tolerance)  # of every value, downwards and upwards
        margins[1:-1] = (values.diff() / 2).clamp(min=tolerance)
        margins[[0, -1]] = margins[[1, -2]]
        # Where the curve saturates too low, the way to its very end would be demanded of every saturated sample.
        lowest, highest = (float(end) for end in self.table.outputs[[0, -1]])
        low = self.table.inverse((values - margins[:-1]).clamp(max=highest - tolerance), right=False)
        high = self.table.inverse((values + margins[1:]).clamp(min=lowest + tolerance), right=True)
        return low, high


def nearest_increasing(operator: Operator, x: Tensor, y: Tensor, settings: CurveSettings) -> IncreasingCurve | None:
    """The increasing curve nearest to an operator, or None if it explains the observation badly or much worse.

    An operator with memory has none.

    Args:
        operator: maps clean samples to observed ones.
        x: clean samples or an estimate of them, any shape; where they lie the curve is trusted.
        y: observed samples, same shape.
        settings: what counts as badly and as much worse.
    """
    if operator.context:
        return None
    samples, observed = _flat(x), _flat(y)
    low, high = np.quantile(samples, [settings.rare_share, 1 - settings.rare_share])
    grid = np.linspace(low, high, settings.points)
    found = _tabulated(operator, grid, x).clip(observed.min(), observed.max())
    # Where samples are rare the curve is what the waveshaper makes of nothing: it must not count as much as elsewhere.
    counts = np.histogram(samples, bins=settings.points, range=(low, high))[0]
    increasing = isotonic_regression(found, weights=counts + settings.rare_share).x
    error, forced = (np.mean((np.interp(samples, grid, f) - observed) ** 2) for f in (found, increasing))
    curve = _curve(grid, increasing, observed, settings)
    if error > settings.unexplained_power * np.mean(observed**2):
        return None
    return None if forced > settings.monotone_excess * error + curve.tolerance**2 else curve


def known_increasing(operator: Operator, limit: float, y: Tensor, settings: CurveSettings) -> IncreasingCurve | None:
    """The table of a known curve, or None if it falls somewhere by more than its tolerance, or is no curve.

    Args:
        operator: maps clean samples to observed ones.
        limit: largest magnitude of clean samples.
        y: observed samples, any shape; they determine the tolerance.
        settings: of the table.
    """
    if operator.context:
        return None
    grid = np.linspace(-limit, limit, settings.points)
    found = _tabulated(operator, grid, y)
    highest = np.maximum.accumulate(found)
    curve = _curve(grid, highest, _flat(y), settings)
    return None if np.max(highest - found) > curve.tolerance else curve


def plain_curves(y: Tensor, settings: CurveSettings) -> tuple[IncreasingCurve, IncreasingCurve]:
    """The identity as far as the extremes of `y`, and flat beyond: with a sharp and with a round knee.

    The second is `x / (1 + |x / c|^3)^(1/3)` with limits c a little above the extremes. Where `y` has one sign only,
    both are 0 on the other side.

    Args:
        y: observed samples, any shape.
        settings: of the tables.
    """
    observed = _flat(y)
    low, high = np.quantile(observed, [settings.rare_share, 1 - settings.rare_share])
    limit = settings.largest_rms * np.sqrt(np.mean(observed**2))
    grid = np.linspace(-limit, limit, settings.points)
    line = grid.clip(min(low, 0), max(high, 0))
    ends = settings.knee_headroom * np.where(grid < 0, -line[0], line[-1])
    knee = grid * ends / (ends**3 + np.abs(grid) ** 3) ** (1 / 3)
    return _curve(grid, line, observed, settings), _curve(grid, knee, observed, settings)


def matched_curve(x: Tensor, y: Tensor, settings: CurveSettings) -> IncreasingCurve:
    """The increasing curve that gives samples distributed like `x` the distribution of `y`: quantile to quantile.

    Where every sample of the estimate `x` is a little off, the mean of `y` at some `x` is a flattened curve without
    knees; the distributions keep them.

    Args:
        x: an estimate of the clean samples, any shape.
        y: observed samples, any shape.
        settings: of the table.
    """
    shares = np.linspace(0, 1, settings.points)
    observed = _flat(y)
    return _curve(np.quantile(_flat(x), shares), np.quantile(observed, shares), observed, settings)


def with_tolerance(table: TabulatedCurve, observed: np.ndarray, settings: CurveSettings) -> IncreasingCurve:
    """A curve with the tolerance that suits the observed samples."""
    return IncreasingCurve(table, float(settings.tolerance * np.sqrt(np.mean(observed**2))), settings.steep_slope)


def _curve(inputs: np.ndarray, outputs: np.ndarray, observed: np.ndarray, settings: CurveSettings) -> IncreasingCurve:
    return with_tolerance(TabulatedCurve(torch.from_numpy(inputs), torch.from_numpy(outputs)), observed, settings)


def _flat(samples: Tensor) -> np.ndarray:
    return samples.flatten().cpu().double().numpy()


@torch.no_grad()
def _tabulated(operator: Operator, grid: np.ndarray, like: Tensor) -> np.ndarray:
    """An operator's curve, computed in the type and on the device of `like`, at the values `grid` [points]."""
    return operator.portrait(torch.from_numpy(grid).to(like.dtype).to(like.device)).curve[0].cpu().double().numpy()
