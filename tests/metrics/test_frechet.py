"""Fréchet distances: closed forms, and embeddings against their definitions written out."""

import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from signals import FloatArray, need_extra, noise, two_tones

from nldiff.errors import NldiffError
from nldiff.metrics import frechet_audio_distance, frechet_distance, log_mel_distance
from nldiff.metrics.embeddings import EnCodec, VGGish, VGGishNetwork, log_mel_embedding, log_mel_patches, mel_weights
from nldiff.metrics.frechet import set_distance

# ------------------------------------------------------------ distance of Gaussians


def rotation(dimensions: int, seed: int) -> FloatArray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dimensions, dimensions)))[0]


@settings(max_examples=40, deadline=None)
@given(dimensions=st.integers(1, 30), rank=st.integers(0, 30), seed=st.integers(0, 999))
def test_commuting_covariances(dimensions: int, rank: int, seed: int) -> None:
    """With common axes the distance is that of one-dimensional Gaussians, summed; singular ones included."""
    rng = np.random.default_rng(seed)
    mu1, mu2 = rng.standard_normal((2, dimensions))
    s1, s2 = rng.uniform(0, 3, (2, dimensions))
    s1[rank:] = 0
    q = rotation(dimensions, seed)
    c1, c2 = ((q * s**2) @ q.T for s in (s1, s2))
    expected = np.sum((mu1 - mu2) ** 2) + np.sum((s1 - s2) ** 2)
    assert frechet_distance(mu1, c1, mu2, c2) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999))
def test_two_dimensions(seed: int) -> None:
    """For a 2x2 matrix M, `tr M^(1/2) = (tr M + 2 (det M)^(1/2))^(1/2)`: covariances that do not commute."""
    a, b = np.random.default_rng(seed).standard_normal((2, 2, 2))
    c1, c2 = a @ a.T, b @ b.T
    root = math.sqrt(np.trace(c1 @ c2) + 2 * math.sqrt(max(np.linalg.det(c1) * np.linalg.det(c2), 0)))
    expected = np.trace(c1) + np.trace(c2) - 2 * root
    assert frechet_distance(np.zeros(2), c1, np.zeros(2), c2) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_covariances_of_rank_one() -> None:
    u, v = noise(2, 128)
    expected = np.sum(u**2) + np.sum(v**2) - 2 * abs(u @ v)
    zero = np.zeros(128)
    assert frechet_distance(zero, np.outer(u, u), zero, np.outer(v, v)) == pytest.approx(expected, rel=1e-7)
    assert frechet_distance(u, np.outer(u, u), u, np.outer(u, u)) == pytest.approx(0.0, abs=1e-12)


def test_what_is_no_gaussian() -> None:
    mu, c = np.zeros(2), np.eye(2)
    with pytest.raises(NldiffError, match=r"shapes \[2\], \[2, 2\], \[3\], \[2, 2\]: \[d\], \[d, d\]"):
        frechet_distance(mu, c, np.zeros(3), c)
    with pytest.raises(NldiffError, match="contain NaN"):
        frechet_distance(mu, c, mu, np.nan * c)
    with pytest.raises(NldiffError, match="covariance is not symmetric"):
        frechet_distance(mu, c, mu, np.array([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(NldiffError, match="covariance has a negative eigenvalue, -1"):
        frechet_distance(mu, c, mu, -c)


# ------------------------------------------------------------ distance of sets


def samples_as_frames(signal: FloatArray, sample_rate: int) -> FloatArray:
    return signal.reshape(-1, 2) * sample_rate


def test_sets_by_hand() -> None:
    # Frames (0, 0), (2, 0), (0, 2), (2, 2) after the mean over channels, and the same moved by (3, 4), rate 1 Hz.
    stereo = torch.tensor([[0.0, 4.0, 4.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    first: list[tuple[Any, int]] = [(np.array([0.0, 0.0, 2.0, 0.0]), 1), (stereo, 1)]
    second = [(np.array([3.0, 4.0, 5.0, 4.0, 3.0, 6.0, 5.0, 6.0]), 1)]
    assert frechet_audio_distance(first, second, samples_as_frames) == pytest.approx(25.0)
    assert frechet_audio_distance(first, first, samples_as_frames) == pytest.approx(0.0, abs=1e-12)
    # Twice the size about its mean: unbiased variances 4/3 become 16/3, and the mean moves by (1, 1).
    wider = [(2 * np.array([0.0, 0.0, 2.0, 0.0, 0.0, 2.0, 2.0, 2.0]), 1)]
    assert frechet_audio_distance(first, wider, samples_as_frames) == pytest.approx(2 + 2 * 4 / 3)
    assert frechet_audio_distance(iter(first), iter(wider), samples_as_frames) == pytest.approx(2 + 2 * 4 / 3)


def test_distances_between_sets_of_embeddings() -> None:
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((30, 3)).astype(np.float32) for _ in range(2))
    moments = [(x.astype(float).mean(0), np.cov(x.astype(float).T)) for x in (a, b)]
    assert set_distance([a[:10], a[10:]], [b[:10], b[10:]]) == pytest.approx(frechet_distance(*moments[0], *moments[1]))
    assert set_distance([a], [a + np.float32(2)]) == pytest.approx(12, rel=1e-5)  # 3 dimensions, 2^2 each
    with pytest.raises(NldiffError, match="at least 2"):
        set_distance([a[:1]], [b])


def test_sets_that_are_too_small_or_not_finite() -> None:
    one, two = [(np.ones(2), 1)], [(np.ones(4), 1)]
    with pytest.raises(NldiffError, match=r"test set gives 1 frame\(s\) of embeddings: at least 2 needed"):
        frechet_audio_distance(two, one, samples_as_frames)
    with pytest.raises(NldiffError, match=r"reference set gives 0 frame"):
        frechet_audio_distance([], two, samples_as_frames)
    with pytest.raises(NldiffError, match="test set contains NaN"):
        frechet_audio_distance(two, [(np.full(4, np.nan), 1)], samples_as_frames)


def test_log_mel_distance() -> None:
    clean = [(noise(40000, seed=1) + two_tones(40000), 16000), (noise(2, 40000, seed=2), 16000)]
    values = [log_mel_distance(clean, [(np.clip(x, -c, c), rate) for x, rate in clean]) for c in (9.0, 0.4, 0.2, 0.1)]
    assert values[0] == pytest.approx(0.0, abs=1e-9)
    assert values == sorted(values)
    # A gain moves the mean of each of the 64 bands by its logarithm, and nothing else.
    loud = [(1e5 * noise(40000), 16000)]
    twice = [(2 * x, rate) for x, rate in loud]
    assert log_mel_distance(loud, twice) == pytest.approx(64 * math.log(2) ** 2, rel=1e-4)


# ------------------------------------------------------------ log-mel front end


def mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)


def test_mel_weights_against_their_definition() -> None:
    edges = [mel(125) + (mel(7500) - mel(125)) * i / 65 for i in range(66)]
    for bin_index in range(257):
        m = mel(bin_index * 31.25)
        for band in range(64):
            low, centre, high = edges[band : band + 3]
            weight = max(0.0, min((m - low) / (centre - low), (high - m) / (high - centre)))
            assert mel_weights()[bin_index, band] == pytest.approx(weight, abs=2e-4)  # 1127 is 2595 / ln 10, rounded


def test_log_mel_of_one_frame() -> None:
    x = noise(16000)
    frame = x[3 * 160 : 3 * 160 + 400] * [math.sin(math.pi * n / 400) ** 2 for n in range(400)]
    magnitudes = [abs(sum(frame * np.exp(-2j * np.pi * k * np.arange(400) / 512))) for k in range(257)]
    patches = log_mel_patches(x, 16000)
    assert patches.shape == (1, 96, 64)
    np.testing.assert_allclose(patches[0, 3], np.log(magnitudes @ mel_weights() + 0.01), atol=1e-9)


def test_log_mel_against_another_package() -> None:
    # Triangles of nnAudio are linear in Hz, which changes the mean of a band by 0.13 % at most, and its transform is
    # centred in 512 samples.
    from nnAudio.features import MelSpectrogram

    x = noise(16000)
    transform = MelSpectrogram(
        sr=16000, n_fft=512, win_length=400, hop_length=160, n_mels=64, fmin=125.0, fmax=7500.0, htk=True, norm=None,
        power=1.0, center=False, verbose=False,
    )  # fmt: skip
    mel = transform(torch.tensor(np.pad(x, 56), dtype=torch.float32))[0].T[:96]
    np.testing.assert_allclose(log_mel_patches(x, 16000)[0], np.log(mel.double().numpy() + 0.01), rtol=0, atol=0.01)


@pytest.mark.parametrize(("samples", "patches"), [(15600, 1), (15600 + 96 * 160 - 1, 1), (15600 + 96 * 160, 2)])
def test_number_of_patches(samples: int, patches: int) -> None:
    x = noise(samples)
    assert log_mel_patches(x, 16000).shape == (patches, 96, 64)
    embedding = log_mel_embedding(x, 16000)
    assert embedding.shape == (patches, 128)
    np.testing.assert_allclose(embedding[0, :64], [sum(band) / 96 for band in log_mel_patches(x, 16000)[0].T])
    with pytest.raises(NldiffError, match=r"signal of 0.975 s is too short to embed: 0.975 s needed"):
        log_mel_patches(x[:15599], 16000)


# ------------------------------------------------------------ VGGish


def test_vggish_shapes() -> None:
    with torch.device("meta"):
        network = VGGishNetwork()
    assert sum(parameter.numel() for parameter in network.parameters()) == 72_141_184
    assert {name: list(parameter.shape) for name, parameter in network.named_parameters() if "weight" in name} == {
        "features.0.weight": [64, 1, 3, 3],
        "features.3.weight": [128, 64, 3, 3],
        "features.6.weight": [256, 128, 3, 3],
        "features.8.weight": [256, 256, 3, 3],
        "features.11.weight": [512, 256, 3, 3],
        "features.13.weight": [512, 512, 3, 3],
        "embeddings.0.weight": [4096, 12288],
        "embeddings.2.weight": [4096, 4096],
        "embeddings.4.weight": [128, 4096],
    }


def vggish_written_out(patch: FloatArray, weights: dict[str, FloatArray]) -> FloatArray:
    """[96, 64] -> [128] with channels last and each convolution as a sum over its nine positions."""
    x = patch[:, :, None]
    for index in (0, 3, 6, 8, 11, 13):
        kernel, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
        rows, columns = x.shape[:2]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        x = bias + sum(padded[i : i + rows, j : j + columns] @ kernel[:, :, i, j].T for i in range(3) for j in range(3))
        x = np.maximum(x, 0)
        if index not in (6, 11):
            x = np.maximum(np.maximum(x[::2, ::2], x[1::2, ::2]), np.maximum(x[::2, 1::2], x[1::2, 1::2]))
    values = x.reshape(-1)
    for index in (0, 2, 4):
        values = weights[f"embeddings.{index}.weight"] @ values + weights[f"embeddings.{index}.bias"]
        values = np.maximum(values, 0) if index < 4 else values
    return values


def test_vggish_against_its_definition(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = VGGishNetwork().state_dict()  # torch's initial weights make the output nearly constant
    state = {name: 3 * value if name.startswith("features") else value for name, value in state.items()}
    path = tmp_path / "vggish.safetensors"
    save_file(state, path)
    embed = VGGish(path)
    path.unlink()  # 0.3 GB
    x = 3 * noise(48000) * np.linspace(0, 1, 48000)
    values = embed(x, 16000)
    assert values.shape == (3, 128)
    weights = {name: value.numpy() for name, value in state.items()}
    expected = vggish_written_out(log_mel_patches(x, 16000)[2].astype(np.float32), weights)
    assert np.std(expected) > 1e-3
    assert np.min(expected) < 0  # no activation at the end
    np.testing.assert_allclose(values[2], expected, rtol=1e-3, atol=1e-4 * np.max(np.abs(expected)))
    assert np.max(np.abs(values[1] - values[2])) > 1e-3 * np.max(np.abs(expected))


def test_weights_that_are_not_vggish(tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match=r"nowhere.pt does not exist: a file with the weights of VGGish is needed"):
        VGGish(tmp_path / "nowhere.pt")
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, tmp_path / "other.pt")
    with pytest.raises(NldiffError, match=r"other.pt does not hold the weights of VGGish"):
        VGGish(tmp_path / "other.pt")
    torch.save(print, tmp_path / "code.pt")
    for name in ("code.pt", "text.pt", "text.safetensors"):
        if name.startswith("text"):
            (tmp_path / name).write_text("no weights")
        with pytest.raises(NldiffError, match=f"{name} cannot be read as a state dictionary"):
            VGGish(tmp_path / name)


# ------------------------------------------------------------ EnCodec


def test_a_folder_that_is_not_encodec(tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match=r"nowhere is not a folder: the one with EnCodec's config.json is needed"):
        EnCodec(tmp_path / "nowhere")


@pytest.mark.slow  # transformers takes long to import
def test_encodec_is_the_encoder_of_its_package(tmp_path: Path) -> None:
    need_extra("encodec")
    transformers = import_module("transformers")
    with pytest.raises(NldiffError, match="does not hold a model of EnCodec"):
        EnCodec(tmp_path)
    torch.manual_seed(0)
    sizes = {"num_filters": 4, "hidden_size": 8, "codebook_dim": 8, "codebook_size": 16, "upsampling_ratios": [4, 2]}
    model = transformers.EncodecModel(transformers.EncodecConfig(**sizes)).eval()
    model.save_pretrained(tmp_path / "mono")
    embed = EnCodec(tmp_path / "mono")
    x = noise(4000)
    expected = model.encoder(torch.tensor(x, dtype=torch.float32)[None, None])[0].T.detach()
    assert expected.shape == (500, 8)
    np.testing.assert_allclose(embed(x, 24000), expected, atol=1e-6)
    assert embed(x, 12000).shape == (1000, 8)

    stereo = transformers.EncodecModel(transformers.EncodecConfig(**sizes, audio_channels=2))
    stereo.save_pretrained(tmp_path / "stereo")
    with pytest.raises(NldiffError, match="stereo holds an EnCodec of 2 channels: the mono model is needed"):
        EnCodec(tmp_path / "stereo")


def test_missing_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(NldiffError, match=r'transformers.*pip install "nldiff\[encodec\]"$'):
        EnCodec(tmp_path)
