"""The inner loop of Alg. 1: Adam on the parameters of the operator, for a fixed estimate of the clean signal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nldiff.operators import Operator
from nldiff.sampling.likelihood import Cost
from nldiff.sampling.settings import OperatorFitSettings


class OperatorFit:
    """Fits an operator to its observation, again and again; does nothing if no parameter requires a gradient.

    Args:
        operator: its parameters change in place.
        y: observation [batch, time] at the prior's level.
        cost: distance of the distorted estimate from the observation.
        settings: of Adam, whose state is kept from fit to fit, and of the segments.
        sources: one CPU generator per item, which the segments are drawn from.
    """

    def __init__(
        self,
        operator: Operator,
        y: Tensor,
        cost: Cost,
        settings: OperatorFitSettings,
        sources: Sequence[torch.Generator],
    ) -> None:
        self._operator, self._y, self._cost, self._settings, self._sources = operator, y, cost, settings, sources
        parameters = operator.trainable()
        self._adam = torch.optim.Adam(parameters, settings.learning_rate, settings.betas) if parameters else None

    def warm_up(self, start: Tensor) -> None:
        """Fit before the first diffusion step, with the `start` of sampling [batch, time] as the clean signal."""
        if self._settings.warmup:
            self._fit(start, self._settings.warmup)

    def __call__(self, x0: Tensor) -> None:
        """Fit to the denoised estimate `x0` [batch, time] at the prior's level."""
        self._fit(x0, self._settings.iterations)

    def _fit(self, x0: Tensor, iterations: int) -> None:
        if self._adam is None:
            return
        x0, y = self._segments(x0)
        distorted, compare = self._operator.prepare(x0), self._cost.prepare(y)
        for _ in range(iterations):
            self._adam.zero_grad(set_to_none=True)
            compare(distorted()).sum().backward()
            self._adam.step()

    def _segments(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """The same random segments [batch * segments, length] of estimate and observation, or the whole of both."""
        count, length = self._settings.segments, self._settings.segment_length
        if not count or x0.shape[1] <= length:
            return x0, self._y
        beyond = x0.shape[1] - length + 1
        starts = torch.stack([torch.randint(beyond, (count,), generator=source) for source in self._sources])
        where = (starts.to(x0.device)[:, :, None] + torch.arange(length, device=x0.device)).flatten(1)
        return x0.gather(1, where).reshape(-1, length), self._y.gather(1, where).reshape(-1, length)
