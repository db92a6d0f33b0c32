"""The refinement network: from the sparsest signals of a feasible set to the mean of the clean signals inside it.

Shrinkage knows nothing of speech or guitars. The network sees what it found with different windows, how far every
sample may still move, and which samples are exact, and estimates the posterior mean: an amortised inference, trained
once for all increasing curves.
"""

from typing import Any

import torch
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.networks.layers import ScoreNetwork
from nldiff.networks.ncsnpp import NCSNpp

# Signals that the network sees, see `RefinementNetwork.forward`.
_SIGNALS = 6
# An interval's side beyond this many RMS says no more.
_WIDEST = 3.0
# Samples with narrower intervals count as exact, in RMS: observed values are known to half their distance at best.
_EXACT = 1e-2
# Least scale of the correction, in RMS.
_LEAST_SCALE = 1e-3


class RefinementNetwork(nn.Module):
    """`clamp(s + scale * F(signals), low, high)` with an `NCSNpp` as F, which starts at zero.

    The scale is how far the windows disagree, a rough estimate of the error; F knows it as its "noise level".

    Args:
        arguments: of `NCSNpp` but `layer`, `progressive`, `attention` and `signals`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        fixed: dict[str, Any] = {"layer": "magnitude_preserving", "progressive": False, "attention": False}
        network = NCSNpp(**arguments, **fixed, signals=_SIGNALS)
        assert network.output_gain is not None  # of these layers
        nn.init.zeros_(network.output_gain)
        self.network: ScoreNetwork = network

    def forward(self, found: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Refine sparse signals.

        Args:
            found: the sparsest signals with each of the windows, [batch, windows, time], any level; float32.
            low: lower bounds of the clean samples [batch, time]; may be -infinite.
            high: upper bounds, same shape; may be infinite.

        Returns:
            [batch, time], within the bounds. The derivative is that of the sum before it was clamped: where it left
            the bounds, the clean sample lies on their side, so that the sign of the error stays right.
        """
        mean = found.mean(1)
        inside = torch.clamp(mean, low, high)
        rms = inside.square().mean(1, keepdim=True).sqrt().clamp(min=torch.finfo(inside.dtype).tiny)
        above = (high - inside).clamp(max=_WIDEST * rms)
        below = (inside - low).clamp(max=_WIDEST * rms)
        exact = ~inexact(low, high, rms)
        longer, shorter = found[:, -1] - mean, found[:, 0] - mean
        scale = _scale(longer - shorter, exact, rms)
        # Deviations in units of the scale, the rest in units of the RMS: all near unit variance.
        signals = [inside / rms, longer / scale, shorter / scale, above / rms, below / rms, inside * exact / rms]
        correction = scale * self.network(torch.stack(signals, 1), (scale / rms).log()[:, 0] / 4)
        moved = inside + correction
        return moved + (torch.clamp(moved, low, high) - moved).detach()

    def freeze(self, dtype: torch.dtype) -> None:
        """Make ready for inference, see `ScoreNetwork.freeze`."""
        self.network.freeze(dtype)


def inexact(low: Tensor, high: Tensor, rms: Tensor) -> Tensor:
    """Which samples of bounds [batch, time] are not exact, for signals of RMS [batch, 1]; boolean."""
    return high - low > _EXACT * rms


def make_refinement_network(**arguments: Any) -> RefinementNetwork:
    """Build a network from its constructor arguments.

    Raises:
        NldiffError: the constructor refuses an argument.
    """
    try:
        return RefinementNetwork(**arguments)
    except (TypeError, ValueError) as error:
        raise NldiffError(f"refinement network: {error}") from error


def _scale(difference: Tensor, exact: Tensor, rms: Tensor) -> Tensor:
    """RMS [batch, 1] of a difference [batch, time] over the samples that are not exact; all arguments alike."""
    weights = (~exact).to(difference.dtype)
    power = (difference.square() * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
    return power.sqrt().maximum(_LEAST_SCALE * rms)
