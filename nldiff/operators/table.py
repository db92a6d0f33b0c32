"""Curves as tables."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators.operator import Operator


@dataclass(frozen=True, eq=False)
class TabulatedCurve(Operator):
    """A curve given at points, straight between them and flat outside.

    Attributes:
        inputs: `[points]`, two or more that never fall; float64 on the CPU, as not every accelerator has float64.
        outputs: `[points]`, float64 on the CPU.

    Raises:
        NldiffError: if the table has another form.
    """

    inputs: Tensor
    outputs: Tensor

    def __post_init__(self) -> None:
        """Check and convert the table."""
        for name in ("inputs", "outputs"):
            object.__setattr__(self, name, getattr(self, name).detach().cpu().double())
        if self.inputs.ndim != 1 or len(self.inputs) < 2 or self.inputs.shape != self.outputs.shape:
            shapes = f"{list(self.inputs.shape)} and {list(self.outputs.shape)}"
            raise NldiffError(f"tabulated curve of shapes {shapes}: twice [points], at least 2, expected")
        # a difference of finite numbers can be infinite
        for name in ("inputs", "outputs"):
            if not getattr(self, name).diff().isfinite().all():
                raise NldiffError(f"tabulated curve: {name} that are NaN, infinite or too far apart")
        if not (self.inputs.diff() >= 0).all() or self.inputs[0] == self.inputs[-1]:
            raise NldiffError("tabulated curve: inputs that never fall and are not all the same expected")

    def forward(self, x: Tensor) -> Tensor:
        """Distort samples of any shape; type and device are those of `x`."""
        values = x.detach().cpu().double().numpy()
        y = torch.from_numpy(np.asarray(np.interp(values, self.inputs, self.outputs))).to(x.dtype).to(x.device)
        if not x.requires_grad:
            return y
        # the search never ends between two equal inputs, where the slope is not finite
        slopes = torch.nn.functional.pad(self.outputs.diff() / self.inputs.diff(), (1, 1))
        slope = slopes[torch.searchsorted(self.inputs, torch.from_numpy(values))]
        return y + slope.to(x.dtype).to(x.device) * (x - x.detach())  # adds an exact zero with the slope

    def __str__(self) -> str:
        """Its size; the values would fill pages."""
        return f"a table of {len(self.inputs)} points"

    def inverse(self, outputs: Tensor, right: bool) -> Tensor:
        """Invert a table whose outputs never fall.

        Args:
            outputs: float64 on the CPU, any shape.
            right: where the curve is flat, take the largest input that gives an output, not the smallest.

        Returns:
            The input at which the curve first reaches, with `right` last stays at or below, each of the outputs;
            infinite if it does all along.
        """
        index = torch.searchsorted(self.outputs, outputs, right=right)
        inside = index.clamp(1, len(self.outputs) - 1)
        y0, y1, x0, x1 = self.outputs[inside - 1], self.outputs[inside], self.inputs[inside - 1], self.inputs[inside]
        # Not right: y0 < outputs <= y1; right: y0 <= outputs < y1. A step that is divided by is above 0 in both.
        crossing = x0 + (x1 - x0) * (outputs - y0) / torch.where(y1 > y0, y1 - y0, torch.ones_like(outputs))
        crossing = torch.where(index == 0, -torch.inf, crossing)
        return torch.where(index == len(self.outputs), torch.inf, crossing)
