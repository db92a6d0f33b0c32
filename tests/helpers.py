"""What several test files share: a prior small enough for tests, a plucked string, a sampler that changes nothing."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nldiff.baselines.networks import make_network as make_baseline
from nldiff.baselines.saved import save_baseline
from nldiff.networks import make_network
from nldiff.operators import Operator
from nldiff.priors.saved import Prior, load_prior, save_prior
from nldiff.restoration.feasible import Intervals
from nldiff.restoration.methods import METHODS
from nldiff.sampling import Posterior, Step
from nldiff.sampling.likelihood import Cost
from nldiff.sampling.settings import OperatorFitSettings, SamplerSettings

TINY_RATE = 8000
TINY_SETTINGS: dict[str, dict[str, Any]] = {
    "sampler": {"steps": 3},
    "operator_fit": {"iterations": 2},
    "refinement": {"name": "none"},
    # Nothing that such a prior makes would be believed.
    "evidence": {"judge": False},
}
TINY_NETWORK: dict[str, Any] = {
    "name": "cqtunet",
    "channels": [4, 4],
    "layers": [1, 1],
    "layer": "magnitude_preserving",
    "bins_per_octave": 4,
    "embedding": 8,
}


def save_tiny_prior(path: Path, sample_rate: int = TINY_RATE, **metadata: Any) -> Path:
    """Prior of random weights, in milliseconds a step."""
    torch.manual_seed(0)
    network = make_network(**TINY_NETWORK)
    with torch.no_grad():
        network.output_gain.fill_(0.3)  # type: ignore[operator]
    config = {"network": TINY_NETWORK, "sample_rate": sample_rate, "sigma_data": 0.06, "sigma_min": 1e-3}
    save_prior(path, network, config | {"settings": TINY_SETTINGS} | metadata)
    return path


def load_tiny_prior(folder: Path, sample_rate: int = TINY_RATE, **metadata: Any) -> Prior:
    """`save_tiny_prior`, loaded in float32 so that results are the same on every machine."""
    return load_prior(save_tiny_prior(folder / "tiny.safetensors", sample_rate, **metadata), dtype=torch.float32)


def save_tiny_baseline(path: Path, sample_rate: int = TINY_RATE, task: str = "hard_clip") -> Path:
    """Wave-U-Net of random weights, in milliseconds a second; its receptive field is 9 samples."""
    torch.manual_seed(0)
    network: dict[str, Any] = {"name": "wave-unet", "levels": 1, "channels": 2, "down_kernel": 3, "up_kernel": 3}
    config = {"network": network, "sample_rate": sample_rate, "level": 0.06, "task": [task]}
    save_baseline(path, make_baseline(**network), config)
    return path


def plucked(seconds: float, rate: int, seed: int = 0, peak: float = 0.5) -> NDArray[np.float32]:
    """Strings plucked every 0.3 s: decaying harmonics, `[time]`."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    x = np.zeros_like(t)
    for onset in np.arange(0, seconds, 0.3):
        pitch = random.choice([82.4, 110.0, 146.8, 196.0, 246.9])
        for k in range(1, 8):
            phase = 2 * np.pi * (k * pitch * t + random.random())
            x += (t >= onset) * np.exp(-np.clip(t - onset, 0, None) * (2 + k)) * np.sin(phase) / k
    return (peak * x / np.abs(x).max()).astype(np.float32)


def clipped(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Hard-clipped strings `[channels, time]`, another one in each channel."""
    return np.stack([plucked(seconds, rate, seed + c) for c in range(channels)]).clip(-0.15, 0.15)


def tones(seed: int, rate: int = TINY_RATE) -> Tensor:
    """One second of four sinusoids, RMS 0.06, `[1, rate]`."""
    random = np.random.default_rng(seed)
    frequency, phase, amplitude = random.uniform(100, 1000, 4), random.uniform(0, 6.28, 4), random.uniform(0.3, 1, 4)
    time = np.arange(rate)[:, None] / rate
    x = (amplitude * np.sin(2 * np.pi * frequency * time + phase)).sum(1)
    return torch.from_numpy((0.06 * x / np.sqrt(np.mean(x**2))).astype(np.float32))[None]


def laplace(count: int, seed: int = 0, scale: float = 0.1) -> Tensor:
    """Samples distributed about as those of music, `[1, count]`."""
    return torch.from_numpy(np.random.default_rng(seed).laplace(scale=scale, size=(1, count)).astype(np.float32))


def intervals(seed: int, items: int, length: int) -> tuple[Tensor, Intervals]:
    """A signal, and intervals of which a tenth is infinite on a side and a tenth a point; not all contain it."""
    source = torch.Generator().manual_seed(seed)
    x, low = (torch.randn(items, length, generator=source) for _ in range(2))
    high = low + torch.rand(items, length, generator=source)
    kind = torch.randint(10, (items, length), generator=source)
    low = torch.where(kind == 0, -torch.inf, low)
    high = torch.where(kind == 1, torch.inf, torch.where(kind == 2, low, high))
    return x, Intervals(low, high)


def rms(x: Any) -> float:
    """Root mean square over everything."""
    return float(np.sqrt(np.mean(np.asarray(x, dtype=np.float64) ** 2)))


class OnAccelerator(Tensor):
    """A tensor that stands for one on a device without float64, as Apple's are; `cpu()` makes it a plain one."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if func is Tensor.cpu:
            return result.as_subclass(Tensor)
        if isinstance(result, cls) and result.dtype in (torch.float64, torch.complex128):
            raise TypeError("the device has no float64")
        return result


class Function(Operator):
    """A function of audio as an operator."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class FakeSampler:
    """Stands for `nldiff.sampling.sample`: the restored signal is `answer(y)`; keeps the arguments of every call."""

    def __init__(self, answer: Callable[[Tensor], Tensor] = torch.clone, keep: bool = True) -> None:
        self.answer, self.keep = answer, keep
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        denoiser: Any,
        y: Tensor,
        operator: Operator,
        schedule: Tensor,
        settings: SamplerSettings,
        sources: Sequence[torch.Generator],
        *,
        fit: OperatorFitSettings,
        cost: Cost,
        start: Tensor,
        level: float | None,
        batch_size: int,
        callback: Callable[[Step], None],
    ) -> Posterior:
        if self.keep:
            seeds = [source.initial_seed() for source in sources]
            self.calls.append(
                {"y": y.clone(), "start": start.clone(), "operator": operator, "trainable": len(operator.trainable())}
                | {"level": level, "schedule": schedule, "settings": settings, "fit": fit, "cost": cost}
                | {"seeds": seeds, "batch_size": batch_size}
            )
        for index in range(settings.steps):
            callback(Step(index, settings.steps, 1.0, torch.zeros(len(y)), y, operator))
        return Posterior(self.answer(y), operator, torch.zeros(settings.steps, len(y)), settings.steps, 0.0)


def use_sampler(monkeypatch: pytest.MonkeyPatch, sampler: Callable[..., Posterior]) -> None:
    """Make the methods with a prior draw from `sampler` instead of the posterior."""
    for name, method in METHODS.items():
        if method.uses_prior:
            run: Any = method.run
            monkeypatch.setitem(METHODS, name, replace(method, run=partial(run, sample=sampler)))
