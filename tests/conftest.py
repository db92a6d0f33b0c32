"""Fixtures for all tests: one thread, a tiny network and prior, a sampler that changes nothing, synthetic guitar."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import FakeSampler, load_tiny_prior, use_sampler
from hypothesis import settings
from numpy.typing import NDArray
from scipy.signal import lfilter

from nldiff.priors import Prior

settings.register_profile("nldiff", deadline=None)
settings.load_profile("nldiff")


def pytest_configure() -> None:
    """Take notice of signals that a shell made this program ignore in the background: tests send them."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pluck(frequency: float, seconds: float, sample_rate: int, seed: int = 0) -> NDArray[np.float32]:
    """A string plucked once a second (Karplus and Strong 1983), [time], RMS 0.06."""
    burst = np.zeros(int(seconds * sample_rate))
    period = round(sample_rate / frequency)
    rng = np.random.default_rng(seed)
    for start in range(0, len(burst), sample_rate):
        count = min(period, len(burst) - start)
        burst[start : start + count] += rng.uniform(-1, 1, count)
    feedback = np.zeros(period + 2)
    feedback[0], feedback[period:] = 1.0, -0.498
    x = lfilter([1.0], feedback, burst)
    return (x * 0.06 / np.sqrt(np.mean(x**2))).astype(np.float32)


@pytest.fixture(scope="session")
def guitar_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of four short recordings at 8 and 11.025 kHz, mono and stereo, one in a subfolder."""
    folder = tmp_path_factory.mktemp("guitar")
    (folder / "more").mkdir()
    sf.write(folder / "a.wav", pluck(82.4, 2.0, 8000, seed=1), 8000)
    sf.write(folder / "b.flac", pluck(110.0, 1.5, 8000, seed=2), 8000)
    sf.write(folder / "c.wav", pluck(196.0, 1.0, 11025, seed=3), 11025)
    stereo = np.stack([pluck(146.8, 1.0, 8000, seed=4), pluck(329.6, 1.0, 8000, seed=5)], axis=1)
    sf.write(folder / "more" / "d.wav", stereo, 8000)
    return folder


@pytest.fixture
def tiny_network() -> dict[str, Any]:
    """Name and arguments of a network of three octaves that runs in milliseconds; its granule is 48 samples."""
    return {"name": "cqtunet", "channels": [8, 8, 8], "layers": [1, 1, 1], "bins_per_octave": 8, "embedding": 16}


@pytest.fixture(scope="session")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    """A tiny prior of random weights."""
    return load_tiny_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    """What the methods with a prior draw from; it answers with what it gets."""
    sampler = FakeSampler()
    use_sampler(monkeypatch, sampler)
    return sampler


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser; `browser.begin` comes before every use."""
    with browser.chromium() as driver:
        yield driver
