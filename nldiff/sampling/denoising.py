"""Denoising with bounded memory: a network sees a few items at a time, forwards and backwards."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nldiff.priors.edm import Denoiser


@dataclass
class PartwiseDenoiser:
    """A denoiser that is called with parts of the batch; the result depends on them by rounding alone.

    Attributes:
        denoiser: D(x, sigma).
        batch_size: largest number of items in one call, at least 1.
        evaluations: how often every item was denoised so far. Repetitions for a gradient do not count.
    """

    denoiser: Denoiser
    batch_size: int
    evaluations: int = 0

    def __call__(self, x: Tensor, sigma: float, differentiable: bool) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Denoise.

        Args:
            x: noisy audio [batch, time].
            sigma: its noise level, greater than 0.
            differentiable: whether the second result will be called.

        Returns:
            The estimate [batch, time] without a graph, and the function that pulls a gradient by the estimate
            [batch, time] back to that by `x`, of the same shape; call it once at most.
        """
        self.evaluations += 1
        leaves = [part.detach() for part in x.split(self.batch_size)]
        # The graph of a single part is kept for the gradient; those of several are made again, one at a time.
        keep = differentiable and len(leaves) == 1
        with torch.set_grad_enabled(keep):
            parts = [self._run(leaf.requires_grad_(keep), sigma) for leaf in leaves]

        def pull_back(gradient: Tensor) -> Tensor:
            pulled = []
            for leaf, part, piece in zip(leaves, parts, gradient.split(self.batch_size), strict=True):
                estimate = part if keep else self._run(leaf.requires_grad_(True), sigma)
                pulled.append(torch.autograd.grad(estimate, leaf, piece)[0])
            return torch.cat(pulled)

        return torch.cat([part.detach() for part in parts]), pull_back

    def _run(self, x: Tensor, sigma: float) -> Tensor:
        return self.denoiser(x, x.new_full((len(x),), sigma))
