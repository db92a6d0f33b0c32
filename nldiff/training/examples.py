"""Examples: what a restoration gives the refinement network, computed once and kept on disk.

Shrinkage takes much longer than a step of the training, and the network must see signals as good as those of a
restoration. An item is a crop, a random curve, and the sparsest signals with every window; it depends on its number and
the seed alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nldiff.errors import NldiffError
from nldiff.operators import Operator
from nldiff.restoration.sparse import RefinementSettings, sparse_by_window
from nldiff.sound.histogram import histogram_match
from nldiff.training.baseline import draw_recipe
from nldiff.training.curves import CurveErrors, noisy_and_known, random_monotone
from nldiff.training.data import Crops
from nldiff.training.loop import Key
from nldiff.writing import atomic_path

DrawOperator = Callable[[np.random.Generator, Tensor], Operator]
"""Draws a distortion for clean audio [time]."""

_ATTEMPTS = 20


@dataclass(frozen=True)
class Example:
    """A clean signal and what a restoration finds of it; all at the RMS 1 of the clean signal, `[..., time]` float32.

    Attributes:
        clean: [time].
        low, high: bounds of the clean samples [time]; may be infinite.
        found: the sparsest signals with every window, [windows, time].
    """

    clean: Tensor
    low: Tensor
    high: Tensor
    found: Tensor

    def stacked(self) -> Tensor:
        """All of them, [3 + windows, time]: clean, low, high, found."""
        return torch.cat([torch.stack([self.clean, self.low, self.high]), self.found])

    @classmethod
    def unstacked(cls, parts: Tensor) -> "Example":
        """The way back from [..., 3 + windows, time]; the axes before are those of all parts."""
        return cls(parts[..., 0, :], parts[..., 1, :], parts[..., 2, :], parts[..., 3:, :])


def compute_example(
    clean: Tensor, operator: Operator, errors: CurveErrors, settings: RefinementSettings, random: np.random.Generator
) -> Example | None:
    """Distort, and find the sparsest signals as a restoration with a known curve does.

    Args:
        clean: [time], not silent.
        operator: the distortion.
        errors: how exactly its curve is known.
        settings: windows in samples, iterations and thresholds.
        random: source of randomness.

    Returns:
        None if nothing is left of the signal, or the operator is not increasing.
    """
    rms = float(clean.square().mean().sqrt())
    y, curve = noisy_and_known(operator, operator(clean[None]), rms, errors, random)
    if curve is None or len(y.unique()) < 2:
        return None
    first = torch.from_numpy(histogram_match(y.numpy(), rms)(y.numpy()))
    feasible = curve.feasible(y)
    found = sparse_by_window(first, feasible, settings.windows, settings.iterations, settings)
    return Example(clean / rms, feasible.low[0] / rms, feasible.high[0] / rms, found[0] / rms)


class Examples(Dataset[Tensor]):
    """Examples by (step, item, length), each `[3 + windows, length]` float32, see `Example.stacked`.

    Every item draws one of the examples, the stretch of it that is taken, and its sign. An example that is not on disk
    is computed and kept.

    Args:
        folder: where they are kept, one file each in float16.
        crops: clean audio.
        length: of the kept examples, samples.
        count: how many there are.
        draw: draws an operator for clean audio [time].
        errors: how exactly curves are known.
        settings: of the shrinkage.
    """

    def __init__(
        self,
        folder: Path,
        crops: Crops,
        length: int,
        count: int,
        draw: DrawOperator,
        errors: CurveErrors,
        settings: RefinementSettings,
    ) -> None:
        self.folder, self.crops, self.length, self.count = folder, crops, length, count
        self.draw, self.errors, self.settings = draw, errors, settings

    def __getitem__(self, key: Key) -> Tensor:
        """Stretch number `item` of `step`, [3 + windows, length]."""
        step, item, length = key
        random = np.random.default_rng([self.crops.seed, step, item, 4])
        parts = self.example(int(random.integers(self.count)))
        begin = int(random.integers(self.length - length + 1))
        parts = parts[:, begin : begin + length]
        return mirrored(parts) if random.random() < 0.5 else parts

    def example(self, number: int) -> Tensor:
        """Example `number` as a whole, [3 + windows, length], from disk or computed."""
        path = self.folder / f"{number:06d}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, self._computed(number).stacked().numpy().astype(np.float16))
        try:
            parts = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise NldiffError(f"{path} is damaged: delete it, it will be computed again") from error
        if parts.shape != (3 + len(self.settings.windows), self.length):
            raise NldiffError(f"{path} is of another configuration: its shape is {parts.shape}")
        return torch.from_numpy(parts.astype(np.float32))

    def _computed(self, number: int) -> Example:
        for attempt in range(_ATTEMPTS):
            random = np.random.default_rng([self.crops.seed, number, attempt, 5])
            clean = self.crops[number, attempt, self.length]
            try:
                operator = self.draw(random, clean)
            except NldiffError:  # an input SDR that cannot be reached with this crop
                continue
            example = compute_example(clean, operator, self.errors, self.settings, random)
            if example is not None:
                return example
        raise NldiffError(f"{_ATTEMPTS} random distortions of crop {number} of {self.crops.folder} left nothing of it")


def mirrored(parts: Tensor) -> Tensor:
    """Change the sign of an example `[..., 3 + windows, time]`: of all signals, and the bounds change places."""
    order = [0, 2, 1, *range(3, parts.shape[-2])]
    return -parts[..., order, :]


def operator_drawer(distortions: Sequence[Mapping[str, Any]], random_share: float) -> DrawOperator:
    """Draws `random_monotone` with the probability `random_share`, else a distortion, see `draw_recipe`."""

    def draw(random: np.random.Generator, clean: Tensor) -> Operator:
        if random.random() < random_share:
            return random_monotone(random, float(clean.square().mean().sqrt()))
        return draw_recipe(distortions, random).build(clean[None])

    return draw
