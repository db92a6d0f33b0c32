"""A device as a description says: stages one after the other, and the fit of their coordinates by least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.linalg import block_diag

from nldiff.errors import NldiffError
from nldiff.identification.stages import KnownStage, SplineStage, Stage
from nldiff.operators import DISTORTIONS, Chain, Operator, parse_operator

CURVE = "curve"
WIENER_HAMMERSTEIN = "low_shelf > peak > peak > high_shelf > curve > low_shelf > peak > high_shelf > steep_lowpass"
ALIASES = {"wiener_hammerstein": WIENER_HAMMERSTEIN}
"""Names for descriptions."""

# Points of a spline alone, and of one among other stages.
_POINTS_ALONE, _POINTS = 64, 24
# 20 dB of an equaliser are worth this amplitude of error.
_PULL = 1e-4
# So many steps in a row that gain less than this share end a fit; so many dampings are tried for a step.
_IDLE, _ENOUGH, _TRIES = 3, 5e-3, 10
# What changed places has to be better by this factor, and not worse by that one after so many iterations; nothing is
# tried where the error is below the last power.
_BETTER, _HOPEFUL, _GLANCE, _GOOD = 0.98, 4.0, 3, 1e-4
# Of the derivatives, in coordinates.
_STEP = 1e-5


def stages_of(description: str, sample_rate: int, clean: np.ndarray, observed: np.ndarray) -> list[Stage]:
    """The stages of a description: what `parse_operator` reads, with `curve` as one more name.

    Raises:
        NldiffError: the description is not of this form, has a dry path round it, or asks for an input SDR.
    """
    text = ALIASES.get(description.strip(), description)
    names = [part.strip() for part in text.split(">")]
    peak, slope = float(np.max(np.abs(clean))), float(np.std(observed) / np.std(clean))
    stages: list[Stage] = []
    side = 0
    for name in names:
        if name == CURVE:
            side = len(stages)
            stages.append(SplineStage.over(clean, _POINTS_ALONE if len(names) == 1 else _POINTS, slope))
            continue
        recipe = parse_operator(name)
        if recipe.needs_clean or recipe.mix != 1:
            raise NldiffError(f"operator {description!r}: neither an sdr nor a dry path round the chain can be fitted")
        ((known, given),) = recipe.parts
        # Peaks on the same side of a curve start at different frequencies.
        number = sum(isinstance(stage, KnownStage) and stage.name == known for stage in stages[side:])
        stages.append(KnownStage.of(known, given, sample_rate, peak, number))
    return stages


@dataclass(frozen=True)
class Model:
    """Stages one after the other; a vector `[size]` holds the coordinates of all of them."""

    stages: tuple[Stage, ...]

    @property
    def slices(self) -> list[slice]:
        """Where the coordinates of every stage are."""
        ends = np.cumsum([0, *(stage.bounds.shape[1] for stage in self.stages)])
        return [slice(start, end) for start, end in pairwise(ends)]

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest coordinates, `[2, size]`."""
        return np.concatenate([stage.bounds for stage in self.stages], axis=1)

    def start(self) -> np.ndarray:
        """First coordinates."""
        return np.concatenate([stage.start() for stage in self.stages])

    def penalty(self, at: np.ndarray) -> float:
        """What keeps equalisers that change nothing from running away, as an error-to-signal ratio."""
        return float(np.sum((self.pulls @ (at - self.start())) ** 2))

    def cost(self, excerpt: Excerpt, at: np.ndarray) -> float:
        """Error-to-signal ratio on an excerpt, with the penalty."""
        return excerpt.error(self.through(excerpt.clean, at)[-1]) + self.penalty(at)

    @property
    def pulls(self) -> np.ndarray:
        """What is kept small of the distance from the first coordinates, `[rows, size]`."""
        return _PULL * block_diag(*(stage.pulls for stage in self.stages))

    def through(self, x: np.ndarray, at: np.ndarray) -> list[np.ndarray]:
        """What comes out of every stage, for audio `[channels, time]`."""
        outputs = []
        for stage, part in zip(self.stages, self.slices, strict=True):
            x = stage.apply(x, at[part])
            outputs.append(x)
        return outputs

    def derivatives(self, x: np.ndarray, at: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The output `[channels, time]`, and its derivatives by the coordinates `which` `[n, channels, time]`."""
        outputs = self.through(x, at)
        columns = []
        for index, (stage, part) in enumerate(zip(self.stages, self.slices, strict=True)):
            moved = [i - part.start for i in which if part.start <= i < part.stop]
            if not moved:
                continue
            before = outputs[index - 1] if index else x
            steps = np.eye(part.stop - part.start)[moved] * _STEP
            ahead = np.stack([stage.apply(before, at[part] + step) for step in steps])
            for later, rest in zip(self.stages[index + 1 :], self.slices[index + 1 :], strict=True):
                ahead = later.apply(ahead, at[rest])
            columns.append((ahead - outputs[-1]) / _STEP)
        return outputs[-1], np.concatenate(columns)

    def operator(self, at: np.ndarray) -> Operator:
        """The device with these coordinates."""
        parts = [stage.operator(at[part]) for stage, part in zip(self.stages, self.slices, strict=True)]
        operators = [part for part in parts if part]
        return operators[0] if len(operators) == 1 else Chain(operators)


@dataclass(frozen=True)
class Excerpt:
    """What a model is fitted to.

    Attributes:
        clean, observed: [items, time], float64: stretches of all channels.
        judged: the samples that count: not those in which filters forget that the excerpt began in silence.
    """

    clean: np.ndarray
    observed: np.ndarray
    judged: slice

    def error(self, output: np.ndarray, scaled: bool = False) -> float:
        """Error-to-signal ratio of an output, a power; `scaled`: at the level that suits it best."""
        y, estimate = self.observed[:, self.judged], output[:, self.judged]
        if scaled:
            estimate = estimate * (np.sum(y * estimate) / max(np.sum(estimate**2), 1e-300))
        return float(np.sum((y - estimate) ** 2) / np.sum(y**2))


def fit(
    model: Model, excerpt: Excerpt, at: np.ndarray, iterations: int, which: Sequence[int] | None = None
) -> np.ndarray:
    """Levenberg and Marquardt's method within the bounds (Marquardt 1963): the squared error falls in every step.

    Args:
        model: with derivatives.
        excerpt: what its output should be.
        at: first coordinates.
        iterations: at most.
        which: coordinates that are fitted; by default all.

    Returns:
        The coordinates found.
    """
    free = np.arange(len(at)) if which is None else np.array(which)
    low, high = model.bounds
    scale = np.sqrt(np.sum(excerpt.observed[:, excerpt.judged] ** 2))
    damping, origin, pulls, idle = 1e-2, model.start(), model.pulls, 0
    for _ in range(iterations):
        output, columns = model.derivatives(excerpt.clean, at, free)
        jacobian = columns[:, :, excerpt.judged].reshape(len(free), -1) / scale
        residual = (excerpt.observed - output)[:, excerpt.judged].ravel() / scale
        best = model.cost(excerpt, at)
        normal = jacobian @ jacobian.T + pulls[:, free].T @ pulls[:, free]
        slope = jacobian @ residual - pulls[:, free].T @ (pulls @ (at - origin))
        diagonal = np.diag(np.diag(normal) + 1e-9 * np.trace(normal))
        for _ in range(_TRIES):
            ahead = at.copy()
            ahead[free] += np.linalg.solve(normal + damping * diagonal, slope)
            ahead = ahead.clip(low, high)
            cost = model.cost(excerpt, ahead)
            if cost < best:
                break
            damping *= 4
        else:
            return at
        at, damping = ahead, max(damping / 6, 1e-9)
        idle = idle + 1 if cost > best * (1 - _ENOUGH) else 0
        if idle == _IDLE:
            break
    return at


def search(model: Model, excerpt: Excerpt, at: np.ndarray, points: int) -> np.ndarray:
    """One parameter after the other, the value of a grid that explains the observation best, whatever its level."""
    outputs = model.through(excerpt.clean, at)
    best = excerpt.error(outputs[-1], scaled=True)
    for index, (stage, part) in enumerate(zip(model.stages, model.slices, strict=True)):
        for number, free in enumerate(stage.searched):
            for value in free.grid(points):
                ahead = at.copy()
                ahead[part.start + number] = value
                signal = outputs[index - 1] if index else excerpt.clean
                for later, rest in zip(model.stages[index:], model.slices[index:], strict=True):
                    signal = later.apply(signal, ahead[rest])
                error = excerpt.error(signal, scaled=True)
                if error < best:
                    best, at = error, ahead
            outputs = model.through(excerpt.clean, at)
    return at


def exchanged(model: Model, excerpt: Excerpt, at: np.ndarray, iterations: int) -> np.ndarray:
    """Try what a fit does not find: the values of two stages of the same kind changed places.

    Before and behind a curve that bends a little a filter does nearly the same.
    """
    best = model.cost(excerpt, at)
    places = [
        (model.slices[i], model.slices[j])
        for i, first in enumerate(model.stages)
        for j, second in enumerate(model.stages[i + 1 :], i + 1)
        if isinstance(first, KnownStage) and isinstance(second, KnownStage) and _alike(first, second)
        if any(map(_bends, model.stages[i:j]))
    ]
    for here, there in places:
        if best < _GOOD:
            break
        ahead = at.copy()
        ahead[here], ahead[there] = at[there], at[here]
        ahead = fit(model, excerpt, ahead, _GLANCE)
        if model.cost(excerpt, ahead) < _HOPEFUL * best:
            ahead = fit(model, excerpt, ahead, iterations)
        cost = model.cost(excerpt, ahead)
        if cost < _BETTER * best:
            best, at = cost, ahead
    return at


def _bends(stage: Stage) -> bool:
    return not isinstance(stage, KnownStage) or DISTORTIONS[stage.name].coefficients is None


def _alike(first: KnownStage, second: KnownStage) -> bool:
    return first.name == second.name and first.given == second.given and bool(first.frees)
