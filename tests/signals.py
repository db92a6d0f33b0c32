"""Signals that the tests of several metrics share, and a loud way to leave out what is not installed."""

import numpy as np
import pytest
from numpy.typing import NDArray

from nldiff.metrics import METRICS

FloatArray = NDArray[np.float64]

MODULES = {
    "metrics": ["pystoi", "pesq"],
    "dnsmos": ["speechmos", "onnxruntime", "librosa", "requests"],
    "nisqa": ["torchmetrics", "librosa", "requests"],
    "encodec": ["transformers"],
}


def need_extra(extra: str) -> None:
    """Skip a test, saying what to install, where an extra is missing."""
    for module in MODULES[extra]:
        pytest.importorskip(module, reason=f'not tested, needs pip install "nldiff[{extra}]" ({module} is missing)')


def need(name: str) -> None:
    """`need_extra` for a metric."""
    extra = METRICS[name].extra
    if extra:
        need_extra(extra)


def two_tones(frames: int = 16000) -> FloatArray:
    """Two sines with a peak of 0.7 at 16 kHz, `[frames]`."""
    seconds = np.arange(frames) / 16000
    return 0.5 * np.sin(2 * np.pi * 440 * seconds) + 0.2 * np.sin(2 * np.pi * 1230 * seconds)


def noise(*shape: int, seed: int = 0) -> FloatArray:
    """Gaussian noise of standard deviation 0.1."""
    return 0.1 * np.random.default_rng(seed).standard_normal(shape)


def voice(seconds: float) -> FloatArray:
    """Harmonics of a gliding pitch in three bursts a second, peak 0.3, `[time]` at 16 kHz."""
    time = np.arange(round(16000 * seconds)) / 16000
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * time)) / 16000
    harmonics = sum(np.sin(h * phase) / h for h in range(1, 25))
    x = harmonics * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)) ** 2
    return 0.3 * x / np.max(np.abs(x))


def noisy_voice(seconds: float) -> tuple[FloatArray, FloatArray]:
    """`voice` and the same in noise, for which values of other programs are known."""
    x = voice(seconds)
    return x, x + 0.5 * noise(len(x))
