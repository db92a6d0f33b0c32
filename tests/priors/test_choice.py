import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import load_tiny_prior, plucked, save_tiny_prior
from numpy.typing import NDArray
from torch import Tensor, nn

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.operators import calibrate
from nldiff.priors.choice import choose_prior, denoising_error_db, load_candidates
from nldiff.priors.saved import SHIPPED, Prior
from nldiff.sound.recording import Recording

EXAMPLES = Path(__file__).parents[2] / "examples"


class Denoiser(nn.Module):
    """A function of (noisy, sigma); keeps what it was called with."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.unused = nn.Parameter(torch.zeros(1))
        self.calls: list[tuple[Tensor, float]] = []

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls.append((x, float(sigma[0])))
        return self.function(x, sigma[:, None])


def prior_of(
    function: Callable[[Tensor, Tensor], Tensor], name: str = "p", sample_rate: int = 16000, sigma_data: float = 0.05
) -> Prior:
    return Prior(name, Denoiser(function), sample_rate, sigma_data, 1e-3, {})  # type: ignore[arg-type]


def tone(seconds: float, rate: int, frequency: float = 440.0) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate).astype(np.float32)[None]


# ------------------------------------------------------------ the error of one prior


@pytest.mark.parametrize("amplitude", [1e-4, 3.0])
@pytest.mark.parametrize("sigma_data", [0.05, 1.0])
@pytest.mark.parametrize("prior_rate", [16000, 22050, 44100])
@pytest.mark.parametrize(("rate", "band"), [(16000, 8000), (44100, 8000), (48000, 4000)])
def test_noise_of_a_denoiser_that_does_nothing_is_that_of_the_band(
    rate: int, band: float, prior_rate: int, sigma_data: float, amplitude: float
) -> None:
    prior = prior_of(lambda x, sigma: x, sample_rate=prior_rate, sigma_data=sigma_data)
    found = denoising_error_db(prior, amplitude * tone(4.0, rate), rate, band)
    # 0.3 and 3 times the signal in the band, of which 0.9 count
    assert found == pytest.approx(10 * np.log10(0.9 * 0.3 * 3.0), abs=0.15)


def test_error_that_is_known() -> None:
    # what is left of the signal itself: -20 dB, at every level and in every frame
    clean: list[Tensor] = []

    def shrink(x: Tensor, sigma: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        clean.append(x - sigma * noise)
        return 0.9 * clean[-1]

    found = denoising_error_db(prior_of(shrink), plucked(2.0, 16000)[None], 16000, 8000)
    assert found == pytest.approx(-20, abs=1e-2)
    assert float(clean[0].square().mean().sqrt()) == pytest.approx(0.05, rel=1e-4)


def test_errors_above_the_band_do_not_count() -> None:
    above = torch.from_numpy(tone(2.0, 44100, 12000.0))
    signal = plucked(2.0, 44100)[None]
    noise_free = denoising_error_db(prior_of(lambda x, s: 0.5 * x, sample_rate=44100), signal, 44100, 8000)
    disturbed = denoising_error_db(prior_of(lambda x, s: 0.5 * x + 0.1 * above, sample_rate=44100), signal, 44100, 8000)
    assert disturbed == pytest.approx(noise_free, abs=0.01)


def test_pauses_do_not_count() -> None:
    sound = tone(8.0, 16000)
    with_pause = np.concatenate([sound, np.zeros_like(sound)], axis=1)
    prior = prior_of(lambda x, sigma: x)
    # of the whole, the signal has half the power: so has the noise that is added relative to it
    assert denoising_error_db(prior, with_pause, 16000, 8000) == pytest.approx(
        denoising_error_db(prior, sound, 16000, 8000) - 10 * np.log10(2), abs=0.15
    )


# ------------------------------------------------------------ the choice


def recording(samples: NDArray[np.float32], rate: int = 16000) -> Recording:
    return Recording.from_array(samples, rate)


def wiener(spread: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, sigma: x * spread**2 / (spread**2 + sigma**2)


@pytest.mark.parametrize("order", [1, -1])
def test_the_smallest_error_is_chosen(order: int) -> None:
    x = np.random.default_rng(0).laplace(size=(1, 64000)).astype(np.float32)
    priors = [prior_of(wiener(s), str(s), rate) for s, rate in ((0.01, 16000), (0.05, 44100), (0.5, 24000))][::order]
    choice = choose_prior(recording(x), priors)
    assert choice.prior.name == "0.05"  # white samples of that standard deviation
    assert list(choice.scores) == [prior.name for prior in priors]
    assert min(choice.scores, key=lambda name: choice.scores[name]) == "0.05"
    # mean over sigma of the error of that filter, 1 / (1 + spread^2 / sigma^2), below 0.9 of the band
    expected = np.mean([10 * np.log10(r**2 / (1 + r**2)) for r in (0.3, 3.0)])
    same_rate = choose_prior(recording(x), [prior_of(wiener(0.05), n) for n in "ab"]).scores
    assert same_rate["a"] == same_rate["b"] == pytest.approx(expected, abs=0.15)


def test_a_single_candidate_is_taken_unheard() -> None:
    prior = prior_of(lambda x, sigma: x)
    choice = choose_prior(recording(tone(1.0, 16000)), [prior])
    assert (choice.prior, choice.scores) == (prior, {})
    assert prior.denoiser.calls == []


def test_the_loudest_channel_of_the_loudest_seconds_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[NDArray[Any]] = []

    def listen(prior: Prior, x: NDArray[Any], *others: float) -> float:
        heard.append(x)
        return 0.0

    monkeypatch.setattr("nldiff.priors.choice.denoising_error_db", listen)
    y = np.random.default_rng(0).standard_normal((2, 13 * 1000)).astype(np.float32) * 0.1
    y[1, 6000:10000] *= 5
    y[0, 3000:4000] *= 3
    choose_prior(recording(y, 1000), [prior_of(lambda x, s: x, n) for n in "ab"])
    assert heard[0].shape == (1, 4000)
    # The order of the samples tells them apart from all others; their values are those of clean audio by then.
    np.testing.assert_array_equal(np.argsort(heard[0][0]), np.argsort(y[1, 6000:10000]))


def test_a_constant_is_not_loud() -> None:
    y = np.concatenate([np.ones((1, 160000), np.float32), plucked(2.0, 16000, peak=0.1)[None]], axis=1)
    priors = [prior_of(wiener(0.05), name) for name in "ab"]
    assert np.isfinite(list(choose_prior(recording(y), priors).scores.values())).all()


@pytest.mark.parametrize("distort", [lambda x: 1e3 * x, lambda x: np.tanh(8 * x), lambda x: x + 4 * x**3])
def test_increasing_distortions_change_nothing(
    tmp_path: Path, distort: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> None:
    x = plucked(1.0, 16000)[None]
    priors = [load_tiny_prior(tmp_path), prior_of(wiener(0.1), "other", 44100)]
    plain, distorted = (choose_prior(recording(y), priors).scores for y in (x, distort(x)))
    assert distorted == pytest.approx(plain, abs=0.05)


def test_recordings_of_any_length_and_rate_have_a_choice() -> None:
    for seconds, rate in ((0.1, 8000), (0.1, 192000), (9.0, 4000)):
        priors = [prior_of(wiener(0.05), "low", 16000), prior_of(wiener(1e-4), "high", 44100)]
        choice = choose_prior(recording(plucked(seconds, rate)[None], rate), priors)
        assert choice.prior.name == "low"
        assert np.isfinite(list(choice.scores.values())).all()


# ------------------------------------------------------------ candidates


def test_auto_means_all_shipped_priors(tmp_path: Path) -> None:
    device = torch.device("cpu")
    assert [prior.name for prior in load_candidates("auto", device)] == list(SHIPPED)
    path = save_tiny_prior(tmp_path / "auto.safetensors")
    assert [prior.name for prior in load_candidates(path, device)] == ["auto"]
    with pytest.raises(NldiffError, match="violin"):
        load_candidates("violin", device)


@pytest.mark.parametrize("kind", ["clean", "distorted", "16 kHz"])
def test_a_guitar_is_recognised(kind: str) -> None:
    y, rate = sound.read(EXAMPLES / ("guit_em9_distorted.flac" if kind == "distorted" else "guit_em9.flac"))
    if kind == "16 kHz":
        y, rate = sound.resample(y, rate, 16000), 16000
    choice = choose_prior(recording(y, rate), load_candidates("auto", torch.device("cpu")))
    assert choice.prior.name == "guitar"


@pytest.mark.parametrize("kind", ["clean", "clipped", "44.1 kHz"])
def test_a_voice_is_recognised(kind: str) -> None:
    folder = os.environ.get("NLDIFF_DATA")
    path = Path(folder or "") / "speech" / "val" / "emodb_12_set05.flac"
    if not path.is_file():
        pytest.skip(f"needs a voice, speech/val/{path.name} in the folder NLDIFF_DATA={folder}")
    y, rate = sound.read(path)
    if kind == "clipped":
        y = calibrate("hard_clip", torch.from_numpy(y), sdr=3.0)(torch.from_numpy(y)).numpy()
    elif kind == "44.1 kHz":
        y, rate = sound.resample(y, rate, 44100), 44100
    choice = choose_prior(recording(y, rate), load_candidates("auto", torch.device("cpu")))
    assert choice.prior.name == "speech"
