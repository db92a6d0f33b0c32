"""STOI, PESQ, DNSMOS and NISQA: equal to the packages behind them and to values known from elsewhere."""

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from signals import need_extra, noise, noisy_voice, voice

from nldiff.errors import NldiffError
from nldiff.metrics import dnsmos, dnsmos_scores, estoi, nisqa, nisqa_scores, pesq, stoi
from nldiff.sound import resample

# ------------------------------------------------------------ STOI


def test_stoi_of_a_noisy_voice() -> None:
    need_extra("metrics")
    pystoi = import_module("pystoi")
    x, y = noisy_voice(3)
    assert stoi(x, y, 16000) == pytest.approx(0.8780335399840635, abs=1e-9)
    assert estoi(x, y, 16000) == pytest.approx(0.26783720307262804, abs=1e-9)
    assert stoi(x, y, 22050) == pystoi.stoi(x, y, 22050)


def test_estoi_neither_uses_nor_changes_the_random_state() -> None:
    need_extra("metrics")
    x = voice(1)
    values = set()
    for seed in range(3):
        np.random.seed(seed)
        following = np.random.random()
        np.random.seed(seed)
        values.add(float(estoi(x, np.zeros_like(x), 16000)))
        assert np.random.random() == following
    assert len(values) == 1


def test_stoi_needs_sound() -> None:
    need_extra("metrics")
    x = voice(1)
    for function in (stoi, estoi):
        with pytest.raises(NldiffError, match=r"reference has less than 0.4 s that is not silent"):
            function(x[:6000], x[:6000], 16000)
        x[5000:] = 0  # long enough, but little of it sounds
        with pytest.raises(NldiffError, match=r"reference has less than 0.4 s that is not silent"):
            function(x, x, 16000)
        with pytest.raises(NldiffError, match="reference is silent"):
            function(0 * x, x, 16000)


# ------------------------------------------------------------ PESQ


def test_pesq_of_a_noisy_voice() -> None:
    need_extra("metrics")
    package = import_module("pesq").pesq
    x, y = noisy_voice(3)
    assert pesq(x, y, 16000) == pytest.approx(1.017235279083252, abs=1e-6)
    assert pesq(x, y, 16000, band="narrow") == pytest.approx(1.3090500831604004, abs=1e-6)
    assert pesq(x, y, 8000) == package(8000, x, y, "nb")
    assert pesq(x, x, 8000) == pytest.approx(4.5486, abs=1e-4)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_pesq_at_other_rates_is_that_of_the_resampled_signals(rate: int) -> None:
    need_extra("metrics")
    x = voice(2).astype(np.float32)
    y = np.clip(x, -0.2, 0.2)
    resampled_x, resampled_y = (resample(signal[None], 16000, rate)[0] for signal in (x, y))
    assert pesq(resampled_x, resampled_y, rate) == pytest.approx(pesq(x, y, 16000), abs=0.02)
    assert 1.2 < pesq(x, y, 16000) < 1.4


def test_wide_band_at_8_khz() -> None:
    need_extra("metrics")
    x = resample(voice(2)[None].astype(np.float32), 16000, 8000)[0]
    y = np.clip(x, -0.2, 0.2)
    upsampled_x, upsampled_y = (resample(signal[None], 8000, 16000)[0] for signal in (x, y))
    assert pesq(x, y, 8000, band="wide") == pytest.approx(pesq(upsampled_x, upsampled_y, 16000), abs=1e-3)


def test_pesq_needs_sound() -> None:
    need_extra("metrics")
    x = voice(1)
    with pytest.raises(NldiffError, match="PESQ cannot compare the signals: Buffer needs to be at least 1/4"):
        pesq(x[:3000], x[:3000], 16000)
    with pytest.raises(NldiffError, match="reference is silent"):
        pesq(0 * x, x, 16000)


# ------------------------------------------------------------ DNSMOS


def test_dnsmos_refuses_what_is_beyond_full_scale() -> None:
    need_extra("dnsmos")
    with pytest.raises(NldiffError, match=r"estimate has a peak of 1.2: DNSMOS takes samples of -1 to 1"):
        dnsmos(4 * voice(1), 16000)


@pytest.mark.slow  # the first use of its packages takes a minute
def test_dnsmos_of_a_noisy_voice() -> None:
    need_extra("dnsmos")
    x, y = noisy_voice(10)
    scores = dnsmos_scores(np.stack([y, 3 * x]), 16000)
    assert {name: value[0] for name, value in scores.items()} == pytest.approx(
        {"ovrl": 1.3007, "sig": 1.7443, "bak": 1.2724, "p808": 2.2552}, abs=1e-4
    )
    assert scores["bak"][1] > scores["bak"][0] + 1
    upsampled = resample(3 * x[None].astype(np.float32), 16000, 48000)[0]
    assert dnsmos(0.99 * upsampled, 48000) == pytest.approx(scores["ovrl"][1], abs=0.02)


# ------------------------------------------------------------ NISQA

NISQA_MODULE = "torchmetrics.functional.audio.nisqa"
# Settings of the published network.
NISQA_SETTINGS: dict[str, Any] = {
    "cnn_c_out_1": 16,
    "cnn_c_out_2": 32,
    "cnn_c_out_3": 64,
    "cnn_kernel_size": [3, 3],
    "cnn_pool_1": [24, 7],
    "cnn_pool_2": [12, 5],
    "cnn_pool_3": [6, 3],
    "cnn_dropout": 0.2,
    "td_sa_d_model": 64,
    "td_sa_nhead": 1,
    "td_sa_h": 64,
    "td_sa_num_layers": 2,
    "td_sa_dropout": 0.1,
    "pool_att_h": 128,
    "pool_att_dropout": 0.1,
    "ms_n_fft": 4096,
    "ms_hop_length": 0.01,
    "ms_win_length": 0.02,
    "ms_n_mels": 48,
    "ms_fmax": 20000,
    "ms_seg_length": 15,
    "ms_seg_hop_length": 4,
    "ms_max_segments": 1300,
}


@pytest.fixture
def random_nisqa(tmp_path: Path) -> Path:
    """Checkpoint of random weights in NISQA's format."""
    need_extra("nisqa")
    torch.manual_seed(0)
    path = tmp_path / "nisqa.tar"
    network = import_module(NISQA_MODULE)._NISQADIM(NISQA_SETTINGS)
    with torch.no_grad():  # its five heads are made as copies of one
        for parameter in network.pool_layers.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    torch.save({"args": NISQA_SETTINGS, "model_state_dict": network.state_dict()}, path)
    return path


def test_nisqa_equals_its_package(random_nisqa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = import_module(NISQA_MODULE)
    y = noisy_voice(1)[1]
    monkeypatch.setattr(package, "NISQA_DIR", str(random_nisqa.parent))
    package._load_nisqa_model.cache_clear()
    expected = package.non_intrusive_speech_quality_assessment(torch.tensor(y, dtype=torch.float32), 16000)
    package._load_nisqa_model.cache_clear()

    scores = nisqa_scores(y, 16000, random_nisqa)
    assert list(scores) == ["mos", "noisiness", "discontinuity", "coloration", "loudness"]
    np.testing.assert_allclose(list(scores.values()), expected, atol=1e-5)
    assert len({float(score) for score in scores.values()}) == 5
    monkeypatch.setenv("NLDIFF_NISQA", str(random_nisqa))
    batch = nisqa(np.stack([[y], [voice(1)]]), 16000)
    assert batch.shape == (2, 1)
    assert batch[0, 0] == pytest.approx(scores["mos"], abs=1e-5)
    assert batch[0, 0] != batch[1, 0]


def test_nisqa_needs_weights_and_enough_sound(
    random_nisqa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NLDIFF_NISQA", raising=False)
    with pytest.raises(NldiffError, match=r"NISQA needs its weights: set NLDIFF_NISQA to the path of nisqa.tar"):
        nisqa(voice(1), 16000)
    with pytest.raises(NldiffError, match=r"nowhere.tar cannot be read: No such file"):
        nisqa(voice(1), 16000, tmp_path / "nowhere.tar")
    for name, content in {"other": {"weights": 1}, "changed": {"args": NISQA_SETTINGS, "model_state_dict": {}}}.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(NldiffError, match=f"{name} does not hold the weights of NISQA"):
            nisqa(voice(1), 16000, tmp_path / name)
    (tmp_path / "text").write_text("no checkpoint")
    with pytest.raises(NldiffError, match="text does not hold the weights of NISQA"):
        nisqa(voice(1), 16000, tmp_path / "text")
    with pytest.raises(NldiffError, match=r"NISQA cannot rate 0.1 s: .*too short"):
        nisqa(noise(1600), 16000, random_nisqa)


@pytest.mark.skipif("NLDIFF_NISQA" not in os.environ, reason="not tested, needs NLDIFF_NISQA=path of nisqa.tar")
def test_nisqa_of_a_noisy_voice() -> None:
    need_extra("nisqa")
    scores = nisqa_scores(noisy_voice(10)[1], 16000)
    assert list(scores.values()) == pytest.approx([0.9490, 1.7276, 2.4108, 1.1436, 1.7596], abs=1e-3)


def test_no_warning_of_the_packages_comes_through() -> None:
    need_extra("metrics")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x, y = noisy_voice(1)
        assert stoi(x, y, 22050) > 0
        assert pesq(x, y, 44100) > 0.999
