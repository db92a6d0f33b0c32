"""Scores against the truth, with values that are computed another way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, plucked
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.metrics import lsd, si_sdr
from nldiff.operators import Distortion
from nldiff.restoration.scoring import check_scores, scores

CLIPPER = Distortion("hard_clip", {"threshold": 0.1})


@pytest.fixture(scope="module")
def clean() -> NDArray[np.float32]:
    return np.stack([plucked(0.5, TINY_RATE, seed) for seed in (1, 2)])


def test_the_true_signal_and_curve_have_the_best_scores(clean: NDArray[np.float32]) -> None:
    observed = CLIPPER(torch.from_numpy(clean)).numpy()
    found = scores(clean, observed, clean, CLIPPER, lambda x: np.clip(x, -0.1, 0.1))
    assert found["after"]["si_sdr_db"] > 100
    assert found["after"]["lsd"] == 0
    assert found["after"]["rr_mse_db"] < -200
    assert found["after"]["rr_mse_unfitted_db"] < -200
    assert found["before"]["si_sdr_db"] == pytest.approx(float(np.mean(si_sdr(clean, observed))))
    assert found["before"]["lsd"] == pytest.approx(float(np.mean(lsd(clean, observed))))


def test_channels_are_averaged(clean: NDArray[np.float32]) -> None:
    noise = np.array([[0.01], [0.05]]) * np.random.default_rng(0).standard_normal(clean.shape)
    restored = (clean + noise).astype(np.float32)
    found = scores(clean, clean, restored, CLIPPER, np.asarray)["after"]
    each = [scores(clean[i : i + 1], clean[i : i + 1], restored[i : i + 1], CLIPPER, np.asarray) for i in range(2)]
    for key in ("si_sdr_db", "lsd"):
        assert found[key] == pytest.approx(np.mean([one["after"][key] for one in each]), rel=1e-5)
    assert each[0]["after"]["si_sdr_db"] > each[1]["after"]["si_sdr_db"] + 10


@pytest.mark.parametrize("gain", [0.5, 1.0, 3.0])
def test_the_level_of_the_restored_signal_does_not_matter_if_its_curve_follows(
    clean: NDArray[np.float32], gain: float
) -> None:
    observed = CLIPPER(torch.from_numpy(clean)).numpy()

    def curve(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.tanh(10 * np.asarray(x) / gain) / 10

    usual = scores(clean, observed, clean, CLIPPER, lambda x: np.tanh(10 * np.asarray(x)) / 10)["after"]
    found = scores(clean, observed, np.float32(gain) * clean, CLIPPER, curve)["after"]
    assert found["rr_mse_unfitted_db"] == pytest.approx(usual["rr_mse_unfitted_db"], abs=1e-3)
    assert found["rr_mse_db"] == pytest.approx(usual["rr_mse_db"], abs=1e-3)


def test_a_curve_that_is_right_but_for_its_input_scale_is_told_apart_by_the_fit(clean: NDArray[np.float32]) -> None:
    observed = CLIPPER(torch.from_numpy(clean)).numpy()
    found = scores(clean, observed, clean, CLIPPER, lambda x: np.clip(1.5 * np.asarray(x), -0.1, 0.1))["after"]
    assert found["rr_mse_unfitted_db"] > found["rr_mse_db"] + 10


def test_the_ramp_is_that_of_the_papers_at_the_level_of_the_clean_signal(clean: NDArray[np.float32]) -> None:
    observed = CLIPPER(torch.from_numpy(clean)).numpy()
    asked: list[NDArray[np.float64]] = []

    def curve(x: NDArray[np.float64]) -> NDArray[np.float64]:
        asked.append(np.asarray(x, dtype=np.float64))
        return np.zeros_like(asked[-1])

    found = scores(clean, observed, 2 * clean, CLIPPER, curve)["after"]
    rms = np.sqrt(np.mean(clean.astype(np.float64) ** 2))
    # Where the curve is asked is at the level of the restored signal, twice that of the clean one, three RMS.
    assert np.abs(asked[-1]).max() == pytest.approx(3 * 2 * rms, rel=1e-3)
    # A curve that is silent: all of the true one is the error, in units of a signal of RMS 0.06.
    true = np.clip(np.linspace(-3, 3, 1000) * rms, -0.1, 0.1) * 0.06 / rms
    assert found["rr_mse_unfitted_db"] == pytest.approx(10 * np.log10(np.mean(true**2)), abs=1e-3)


def test_a_curve_with_memory_is_scored_by_its_static_curve(clean: NDArray[np.float32]) -> None:
    truth = Distortion("overdrive", {"gain_db": 10.0})
    observed = truth(torch.from_numpy(clean)).numpy()
    found = scores(clean, observed, clean, truth, lambda x: truth.static(torch.from_numpy(np.asarray(x))).numpy())
    assert found["after"]["rr_mse_unfitted_db"] < -100


@pytest.mark.parametrize("kind", ["short", "silent"])
def test_what_cannot_be_scored_is_named_with_the_reason(clean: NDArray[np.float32], kind: str) -> None:
    x = clean[:, :100] if kind == "short" else 0 * clean
    with pytest.raises(NldiffError, match=r"^some/clean\.wav cannot be scored: .+") as caught:
        check_scores(Path("some/clean.wav"), x, x)
    assert "\n" not in str(caught.value)


def test_what_can_be_scored_passes(clean: NDArray[np.float32]) -> None:
    check_scores(Path("clean.wav"), clean, CLIPPER(torch.from_numpy(clean)).numpy())
