import numpy as np
import pytest
import torch
from scipy.stats import laplace

from nldiff.sampling.start import STARTS

SAMPLES = np.tanh(20 * np.random.default_rng(0).laplace(scale=0.06 / 2**0.5, size=(2, 5000))).astype(np.float32)


def test_the_observation_is_its_own_first_guess() -> None:
    y = torch.from_numpy(SAMPLES)
    assert torch.equal(STARTS["observation"](SAMPLES, 0.06)(y), y)


def test_the_histogram_gives_observed_samples_the_quantiles_of_clean_ones() -> None:
    guess = STARTS["histogram"](SAMPLES, 0.06)(torch.from_numpy(SAMPLES))
    assert (guess.shape, guess.dtype) == ((2, 5000), torch.float32)
    shares = (np.arange(10000) + 0.5) / 10000
    expected = laplace.ppf(shares, scale=0.06 / 2**0.5)
    # the map is a table of 8192 of the 10 000 values: it is interpolated in between, coarsely in the far tails
    assert np.sort(guess.numpy().flatten())[20:-20] == pytest.approx(expected[20:-20], abs=2e-3)
    assert np.array_equal(np.argsort(guess.numpy().flatten()), np.argsort(SAMPLES.flatten()))


def test_the_map_of_the_histogram_comes_from_the_samples_alone() -> None:
    guess = STARTS["histogram"](SAMPLES, 0.06)
    y = torch.from_numpy(SAMPLES)
    torch.testing.assert_close(guess(y[:, :7]), guess(y)[:, :7], rtol=0, atol=0)


def test_the_starts_have_the_names_of_the_settings() -> None:
    assert list(STARTS) == ["histogram", "observation"]
