import contextlib
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nldiff.transforms import Spectrogram
from nldiff.transforms.spectrogram import constant_q_magnitudes


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30)
@given(half=st.integers(2, 60), fraction=st.floats(0.05, 1.0), frames=st.integers(1, 20), seed=st.integers(0, 99))
def test_spectrogram_is_inverted(half: int, fraction: float, frames: int, seed: int) -> None:
    hop = max(2, int(half * fraction) // 2 * 2)
    transform = Spectrogram(2 * half, min(hop, half // 2 * 2))
    x = noise(2, frames * transform.hop, seed=seed)
    spectrum = transform.forward(x)
    assert spectrum.shape == (2, half + 1, frames)
    torch.testing.assert_close(transform.inverse(spectrum), x, rtol=1e-4, atol=1e-4)


def test_spectrogram_against_the_definition() -> None:
    transform = Spectrogram(62, 16)
    x = noise(1, 160)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(62) / 62)
    padded = np.pad(x[0].double().numpy(), 100)
    for frame in (0, 3, 9):
        # the middle of the window, sample 31, lies at (frame + 1/2) hop
        start = 100 + frame * 16 + 8 - 31
        piece = padded[start : start + 62] * window
        bins = [np.sum(piece * np.exp(-2j * np.pi * k * np.arange(62) / 62)) for k in range(32)]
        expected = np.array(bins) * math.sqrt(2 / np.sum(window**2))
        np.testing.assert_allclose(transform.forward(x)[0, :, frame].numpy(), expected, rtol=1e-4, atol=1e-4)


def test_spectrogram_of_white_noise_has_unit_variance() -> None:
    spectrum = Spectrogram(510, 128).forward(noise(1, 128 * 2000))[0, :, 2:-2]
    # about 2000 / 2 independent frames and 254 bins
    assert float(spectrum[1:-1].real.var()) == pytest.approx(1, abs=0.01)
    assert float(spectrum[1:-1].imag.var()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("hop", [0, 3, 33, 64])
def test_hops_that_do_not_work(hop: int) -> None:
    with pytest.raises(ValueError, match=f"n_fft 62 and hop {hop}"):
        Spectrogram(62, hop)


@pytest.mark.parametrize("samples", [1, 15, 17, 160])
def test_spectrogram_pads_with_silence(samples: int) -> None:
    transform, x = Spectrogram(62, 16), noise(2, samples)
    whole = torch.nn.functional.pad(x, (0, -samples % 16))
    spectrum = transform.forward(x)
    assert spectrum.shape == (2, 32, math.ceil(samples / 16))
    assert torch.equal(spectrum, transform.forward(whole))


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("frequency", [110.0, 440.0, 1760.0])
def test_constant_q_of_a_tone(rate: int, frequency: float) -> None:
    x = 0.5 * np.sin(2 * np.pi * frequency * np.arange(2 * rate) / rate)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        magnitudes, centres = constant_q_magnitudes(x, rate, 512)
    assert printed.getvalue() == ""
    assert magnitudes.shape == (len(centres), 1 + 2 * rate // 512)
    band = round(24 * math.log2(frequency / 55))
    np.testing.assert_allclose(centres, 55 * 2 ** (np.arange(len(centres)) / 24))
    assert 0.45 * rate / 2 ** (1 / 24) < centres[-1] < 0.45 * rate
    middle = magnitudes[:, magnitudes.shape[1] // 2]
    assert middle[band] == pytest.approx(0.5, rel=2e-3)
    assert middle.argmax() == band
    # An octave away nothing is left: a Hann window of 34 periods falls below -60 dB within a few of its bands.
    assert np.delete(middle, range(band - 12, band + 13)).max() < 0.5e-3


def test_constant_q_of_a_short_click() -> None:
    click = np.zeros(3000)
    click[1500] = 1.0
    magnitudes, centres = constant_q_magnitudes(click, 16000, 300)
    assert (magnitudes.argmax(axis=1) == 5).all()
    # In the middle of a Hann window of n samples, 34 periods, the height is 2 / sum(window) = 4 / n.
    n = 16000 / centres / (2 ** (1 / 24) - 1)
    np.testing.assert_allclose(magnitudes[:, 5], 4 / n, rtol=0.02)
