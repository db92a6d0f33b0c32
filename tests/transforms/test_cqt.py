import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from nldiff.transforms import ConstantQ
from nldiff.transforms.cqt import _PLANS_KEPT

RATE = 44100
SHAPES = [(8, 32, "hann"), (8, 32, "kaiser"), (7, 24, "hann"), (3, 8, "kaiser"), (1, 12, "hann"), (4, 1, "kaiser")]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def alternating(samples: int) -> Tensor:
    return (1.0 - 2.0 * (torch.arange(samples) % 2))[None]


def relative_error(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm((a - b).double()) / torch.linalg.vector_norm(b.double()))


def band_energies(transform: ConstantQ, x: Tensor) -> Tensor:
    """Energy of every band in ascending frequency, linear group first, [bands]."""
    return torch.cat([c.abs().square().sum(dim=(0, 2)) for c in reversed(transform.forward(x))])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=10)
@given(samples=st.integers(RATE // 10, 2 * RATE), seed=st.integers(0, 1000))
@example(samples=RATE // 10, seed=0)
@example(samples=RATE // 10 + 1, seed=0)
def test_any_length_is_reconstructed(shape: tuple[int, int, str], samples: int, seed: int) -> None:
    transform = ConstantQ(*shape)
    x = noise(2, samples, seed=seed)
    y = transform.inverse(transform.forward(x), samples)
    assert y.shape == x.shape
    assert relative_error(y, x) <= 1e-5


def test_a_minute_is_reconstructed() -> None:
    transform, samples = ConstantQ(), 60 * RATE + 1
    x = noise(1, samples)
    assert relative_error(transform.inverse(transform.forward(x), samples), x) <= 1e-5


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("step", [0, 1], ids=["dc", "nyquist"])
def test_dc_and_nyquist_survive(shape: tuple[int, int, str], step: int) -> None:
    transform = ConstantQ(*shape)
    for samples in (2 * transform.granule, 2 * transform.granule - 1):
        x = alternating(samples) if step else torch.ones(1, samples)
        y = transform.inverse(transform.forward(x), samples)
        assert relative_error(y, x) <= 1e-5
    # Without padding the signal is one frequency, which must lie in the outermost band and nowhere else.
    samples = 2 * transform.granule
    energies = band_energies(transform, alternating(samples) if step else torch.ones(1, samples))
    assert energies[-step] / energies.sum() > 0.999999


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tight_frame(shape: tuple[int, int, str]) -> None:
    transform = ConstantQ(*shape)
    samples = 2 * transform.granule  # even, so that there is a Nyquist frequency
    x = noise(1, samples, dtype=torch.float64)
    energy = sum(float(c.abs().square().sum()) for c in transform.forward(x))
    # The half spectrum holds every frequency twice but for DC and Nyquist, which real signals have only once.
    once = (float(x.sum()) ** 2 + float((x * alternating(samples)).sum()) ** 2) / samples
    assert energy == pytest.approx(float(x.square().sum()) + once, rel=1e-10)


def windows_by_definition(octaves: int, bins: int, window: str, length: int) -> tuple[list[float], NDArray[np.float64]]:
    """Band centres and windows [bands, length / 2 + 1] written down band by band and frequency by frequency."""
    nyquist = length / 2
    lowest = nyquist / 2**octaves
    centres = [(j + 0.5) / bins * lowest for j in range(bins)]
    centres += [lowest * 2 ** ((j + 0.5) / bins) for j in range(octaves * bins)]

    def shape(distance: float) -> float:
        if window == "hann":  # the root of a Hann window
            return math.sqrt(0.5 + 0.5 * math.cos(math.pi * distance))
        return float(np.i0(1.0 * math.sqrt(1 - distance**2)))

    table = np.zeros((len(centres), length // 2 + 1))
    for f in range(length // 2 + 1):
        if f < centres[0]:
            table[0, f] = 1
        elif f >= centres[-1]:
            table[-1, f] = 1
        else:
            k = max(k for k in range(len(centres)) if centres[k] <= f)
            gap = centres[k + 1] - centres[k]
            a, b = shape((f - centres[k]) / gap), shape((centres[k + 1] - f) / gap)
            table[k, f], table[k + 1, f] = a / math.hypot(a, b), b / math.hypot(a, b)
    return centres, table


@pytest.mark.parametrize("window", ["hann", "kaiser"])
def test_coefficients_equal_direct_sums(window: str) -> None:
    octaves, bins = 3, 8
    transform = ConstantQ(octaves, bins, window)
    length = 10 * transform.granule
    x = noise(1, length - 5, dtype=torch.float64)
    n, frequencies = np.arange(length), np.arange(length // 2 + 1)
    padded = np.pad(x[0].numpy(), (0, 5))
    spectrum = np.exp(-2j * np.pi * np.outer(frequencies, n) / length) @ padded / math.sqrt(length)
    centres, table = windows_by_definition(octaves, bins, window, length)

    coefficients = transform.forward(x)
    for group in range(octaves + 1):
        frames = length // (transform.hop * 2 ** min(group, octaves - 1))
        for j in range(bins):
            k = (octaves - group) * bins + j
            offset = frequencies - round(centres[k])
            kernel = np.exp(2j * np.pi * np.outer(np.arange(frames), offset) / frames)
            expected = kernel @ (table[k] * spectrum) * math.sqrt(2 / frames)
            np.testing.assert_allclose(coefficients[group][0, j].numpy(), expected, rtol=0, atol=1e-10)


@settings(max_examples=30)
@given(band=st.integers(0, 9 * 32 - 1))
def test_sinusoid_lies_in_the_band_of_its_frequency(band: int) -> None:
    transform = ConstantQ(8, 32)
    samples = 20 * transform.granule
    lowest = samples / 2 / 2**8
    frequency = (band + 0.5) / 32 * lowest if band < 32 else lowest * 2 ** ((band - 31.5) / 32)
    # Whole periods, so that it is one line of the spectrum; the lowest bands are only a few lines wide.
    x = torch.cos(2 * torch.pi * round(frequency) / samples * torch.arange(samples, dtype=torch.float64))[None]
    energies = band_energies(transform, x)
    assert int(energies.argmax()) == band
    assert energies[max(0, band - 1) : band + 2].sum() / energies.sum() > 1 - 1e-12


def test_white_noise_stays_white() -> None:
    transform = ConstantQ(4, 16)
    variances = [c.abs().square().mean(dim=(0, 2)) for c in transform.forward(noise(4, 300 * transform.granule))]
    for variance in variances[:-1]:
        assert float(variance.min()) > 0.45
        assert float(variance.max()) < 1.1
        assert float(variance[8:].mean()) > float(variance[:8].mean())  # wider bands at the same frame rate


def test_gradients() -> None:
    transform = ConstantQ(2, 4)
    x = noise(2, transform.granule - 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(transform.forward(x)), (x,))
    coefficients = [c.detach().requires_grad_() for c in transform.forward(x)]
    assert torch.autograd.gradcheck(lambda *c: transform.inverse(list(c), x.shape[1]), coefficients)


def test_gradient_of_the_gradient() -> None:
    transform = ConstantQ(2, 2)
    x = noise(1, transform.granule, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: tuple(transform.forward(x)), (x,))


@settings(max_examples=20)
@given(samples=st.integers(1, 20000), octaves=st.integers(1, 6), bins=st.sampled_from([1, 4, 12, 16]))
def test_frames_follow_the_hop(samples: int, octaves: int, bins: int) -> None:
    transform = ConstantQ(octaves, bins)
    padded = transform.padded_length(samples)
    assert padded % transform.granule == 0 and samples <= padded < samples + transform.granule
    rates = [2 ** min(g, octaves - 1) for g in range(octaves + 1)]
    shapes = [tuple(c.shape) for c in transform.forward(torch.zeros(3, samples))]
    assert shapes == [(3, bins, padded // (transform.hop * rate)) for rate in rates]


@pytest.mark.parametrize("bins", [8, 16, 32, 64])
def test_redundancy_does_not_grow_with_octaves(bins: int) -> None:
    for octaves in (2, 6, 10):
        transform = ConstantQ(octaves, bins)
        coefficients = sum(c.numel() for c in transform.forward(torch.zeros(1, transform.granule)))
        # 1 + 1/2 + ... + 2^(1 - octaves) of the highest octave's count, and once more the last term for the linear
        # group: twice the highest octave's count, whatever the number of octaves. In real numbers less than 3 a sample.
        assert coefficients == 2 * bins * transform.granule / transform.hop
        assert 2 * coefficients < 3 * transform.granule


def test_plans_are_reused_and_bounded() -> None:
    transform = ConstantQ(2, 4)
    granule = transform.granule
    first = transform._plan(granule, torch.device("cpu"), torch.float32)
    transform.inverse(transform.forward(torch.zeros(1, granule)), granule)
    assert transform._plan(granule, torch.device("cpu"), torch.float32) is first
    for n in range(2, _PLANS_KEPT + 1):
        transform.forward(torch.zeros(1, n * granule))
    assert transform._plan(granule, torch.device("cpu"), torch.float32) is first
    transform.forward(torch.zeros(1, (_PLANS_KEPT + 1) * granule))
    assert len(transform._plans) == _PLANS_KEPT
    # The least recently used one went, the one just asked for stayed.
    assert transform._plan(granule, torch.device("cpu"), torch.float32) is first
    assert 2 * granule not in {length for length, _, _ in transform._plans}


def test_unknown_window() -> None:
    with pytest.raises(ValueError, match="window 'boxcar': 'hann' or 'kaiser' expected"):
        ConstantQ(window="boxcar")
