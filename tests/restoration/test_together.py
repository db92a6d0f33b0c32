"""Several recordings of one device: one operator, every file as long as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, FakeSampler, load_tiny_prior, plucked, use_sampler
from scipy.signal import lfilter

from nldiff.errors import NldiffError
from nldiff.operators import WienerHammerstein, load_operator, parse_operator
from nldiff.restoration.peeling import undone
from nldiff.restoration.result import Restoration
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.together import found_operator, restore_together
from nldiff.sound.recording import Recording


@pytest.fixture
def takes(tmp_path: Path) -> list[Path]:
    paths = []
    for i, seconds in enumerate((0.9, 1.3)):
        paths.append(tmp_path / f"take{i}.wav")
        samples = plucked(seconds, TINY_RATE, i).clip(-0.15, 0.15)
        sf.write(paths[-1], samples, TINY_RATE, subtype="FLOAT")
    return paths


def test_undoing_starts_anew_in_every_file() -> None:
    clean = [np.cumsum(np.random.default_rng(i).standard_normal((1, 3000)), axis=1) * 0.01 for i in range(2)]
    clean = [x - x.mean() for x in clean]
    highpass = parse_operator("highpass:hz=40").build(None, 8000)
    k = np.tan(np.pi * 40 / 8000)
    observed = [lfilter([1, -1], [1 + k, k - 1], x).astype(np.float32) for x in clean]
    whole = Recording.of_several([Recording.from_array(y, 8000) for y in observed])
    inversion = highpass.inversion()
    assert inversion is not None
    for centred in (False, True):
        result = undone(whole, inversion, centred)
        np.testing.assert_allclose(result.read(0, 6000), np.concatenate(clean, axis=1), atol=1e-4)
        np.testing.assert_array_equal(result.read(2500, 1000), result.read(0, 6000)[:, 2500:3500])


def test_every_file_has_its_results_and_all_one_operator(
    takes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = FakeSampler(lambda y: 2 * y)
    use_sampler(monkeypatch, sampler)
    prior = load_tiny_prior(tmp_path)
    done = restore_together(takes, tmp_path / "out", prior, RestoreConfig(level="rms"))
    lengths = [sf.info(path).frames for path in done.audio]
    assert lengths == [round(0.9 * TINY_RATE), round(1.3 * TINY_RATE)]
    # one level for all: what the sampler made of the second is as much louder as of the first
    for path, take in zip(done.audio, takes, strict=True):
        restored, observed = sf.read(path)[0], sf.read(take)[0]
        gain = restored @ observed / (observed @ observed)
        np.testing.assert_allclose(restored, gain * observed, atol=1e-4)
        assert gain == pytest.approx(done.restoration.audio[0, 4000] / sf.read(takes[0])[0][4000], rel=1e-3)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    ends = (".restored.wav", ".curve.csv", ".curve.png", ".json")
    assert names == {f"take{i}{end}" for i in range(2) for end in ends} | {"device.operator.json"}
    assert {call["operator"].parameter_sets for call in sampler.calls} == {1}
    table = load_operator(done.operator)
    samples = torch.linspace(-0.1, 0.1, 11, dtype=torch.float64)
    np.testing.assert_allclose(table(samples).numpy(), done.restoration.curve.look_up(samples.numpy()), atol=1e-9)


def test_a_device_with_memory_is_fitted_and_saved_in_the_units_of_the_files(
    takes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sampler(monkeypatch, FakeSampler())
    config = RestoreConfig(waveshaper="wiener_hammerstein", level="rms")
    done = restore_together(takes, tmp_path / "out", load_tiny_prior(tmp_path), config)
    fitted = done.restoration.fit.operator
    assert isinstance(fitted, WienerHammerstein)
    assert fitted.sample_rate == TINY_RATE
    # the fake fits nothing: identity and a low-pass below half the rate, from the restored files to the observed ones
    x = torch.from_numpy(done.restoration.audio[0].astype(np.float64))[None]
    y = np.concatenate([sf.read(take)[0] for take in takes])
    assert done.restoration.explained_db > 15
    error = np.sum((load_operator(done.operator)(x).numpy()[0] - y) ** 2) / np.sum(y**2)
    assert -10 * np.log10(error) == pytest.approx(done.restoration.explained_db, abs=0.3)
    expected = found_operator(done.restoration)(x.float()).detach().numpy()
    np.testing.assert_allclose(load_operator(done.operator)(x).numpy(), expected, atol=1e-4)


def test_every_report_says_what_is_explained_of_its_own_recording(
    takes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = np.random.default_rng(0).standard_normal(round(1.3 * TINY_RATE))
    sf.write(takes[1], sf.read(takes[1])[0] + 0.01 * noise, TINY_RATE, subtype="FLOAT")
    use_sampler(monkeypatch, FakeSampler(lambda y: y.round(decimals=2)))
    done = restore_together(takes, tmp_path / "out", load_tiny_prior(tmp_path), RestoreConfig(level="rms"))
    powers, errors, said = [], [], []
    for path, take in zip(done.audio, takes, strict=True):
        restored, observed = sf.read(path)[0], sf.read(take)[0]
        powers.append(np.sum(observed**2))
        errors.append(np.sum((done.restoration.curve(restored) - observed) ** 2))
        report = json.loads((path.parent / f"{take.stem}.json").read_text())
        said.append(report["explained_db"])
        assert report["parts"][0]["explained_db"] == said[-1]
    np.testing.assert_allclose(said, 10 * np.log10(np.divide(powers, errors)), atol=1e-3)
    assert abs(said[0] - said[1]) > 0.1
    assert done.restoration.explained_db == pytest.approx(10 * np.log10(sum(powers) / sum(errors)), abs=1e-3)


def test_the_operator_of_an_earlier_run_is_not_beside_results_of_another_one(
    takes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sampler(monkeypatch, FakeSampler())
    prior, out = load_tiny_prior(tmp_path), tmp_path / "out"
    old = restore_together(takes, out, prior).operator.read_bytes()
    there: list[set[str]] = []

    def stopped(self: Restoration, folder: str | Path, stem: str, warnings: list[str]) -> None:
        there.append({path.name for path in out.glob("*.operator.json")})
        if stem == "take1":
            raise NldiffError("stopped")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Restoration, "save", stopped)
        with pytest.raises(NldiffError, match="stopped"):
            restore_together(takes, out, prior)
    assert there == [set(), set()]
    assert restore_together(takes, out, prior).operator.read_bytes() == old


def test_recordings_that_end_early_are_warned_of_or_refused(
    takes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sampler(monkeypatch, FakeSampler())
    takes[1].write_bytes(takes[1].read_bytes()[: -4 * TINY_RATE // 10])
    prior, out = load_tiny_prior(tmp_path), tmp_path / "out"
    with pytest.raises(NldiffError, match=r"take1.wav is truncated or damaged"):
        restore_together(takes, out, prior, strict=True)
    done = restore_together(takes, out, prior)
    loss = "it ends early: 1.20 s of 1.30 s can be read"
    assert done.warnings == (f"take1.wav: {loss}",)
    assert [json.loads((out / f"take{i}.json").read_text())["warnings"] for i in range(2)] == [[], [loss]]


def test_methods_without_an_operator_are_refused(takes: list[Path], tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match="--same-operator: --method observed finds no operator"):
        restore_together(takes, tmp_path, method="observed")
