"""What the library offers at its top: checked inputs, results to save, a restorer for many recordings."""

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from helpers import TINY_RATE, FakeSampler, clipped

import nldiff
from nldiff import Curve, NldiffError, RestoreConfig, Restorer, restore, restore_draws, restore_file
from nldiff.operators import Distortion
from nldiff.priors.saved import Prior


def test_no_public_name_hides_a_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(nldiff.__path__)}
    assert not modules & set(nldiff.__all__)
    importlib.import_module("nldiff.restoration.pipeline")
    assert all(callable(getattr(nldiff, name)) for name in nldiff.__all__ if name != "__version__")


# ------------------------------------------------------------ inputs


@pytest.mark.parametrize(
    ("name", "full_scale", "offset"), [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 128)]
)
def test_whole_numbers_of_audio_files_are_divided_by_full_scale(
    prior: Prior, fake: FakeSampler, name: str, full_scale: int, offset: int
) -> None:
    y = np.round(clipped(0.3, TINY_RATE)[0] * 100) / 128  # multiples of the coarsest step
    whole = (y * full_scale + offset).astype(name)
    config = nldiff.RestoreConfig(level="rms")
    result = restore(whole, TINY_RATE, prior, config=config)
    np.testing.assert_allclose(result.audio, restore(y, TINY_RATE, prior, config=config).audio, atol=1e-6)
    assert np.std(result.audio) == pytest.approx(np.std(y), rel=1e-4)


BAD_AUDIO: dict[str, Any] = {
    "complex": np.ones(4000, dtype=np.complex64),
    "int64": np.arange(4000),
    "bool": np.arange(4000) > 2000,
    "text": "take.wav",
    "objects": [None, 1.0],
    "ragged": [[1.0, 2.0], [1.0]],
}


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_what_is_no_audio_is_refused(prior: Prior, kind: str) -> None:
    with pytest.raises(NldiffError, match=r"^audio "):
        restore(BAD_AUDIO[kind], TINY_RATE, prior)


@pytest.mark.parametrize("rate", [0, -8000, 44.1, 8000.5, np.nan, np.inf, "44100", None, True, 10**9])
def test_what_is_no_rate_is_refused(prior: Prior, rate: Any) -> None:
    with pytest.raises(NldiffError, match=r"^sample_rate="):
        restore(clipped(0.3, TINY_RATE)[0], rate, prior)


def test_a_rate_may_be_any_whole_number(prior: Prior, fake: FakeSampler) -> None:
    for rate in (np.int64(8000), 8000.0):
        result = restore(clipped(0.3, TINY_RATE)[0], rate, prior)  # type: ignore[arg-type]
        assert (result.sample_rate, type(result.sample_rate)) == (8000, int)


def test_a_known_operator_may_be_a_text_or_a_curve(prior: Prior) -> None:
    y = clipped(0.5, TINY_RATE)[0]
    known = Distortion("hard_clip", {"threshold": 0.15})
    curve = Curve.from_function(lambda x: np.clip(x, -0.15, 0.15), 0.6, 9)  # 0.15 is one of the points
    given, text, table = (restore(y, TINY_RATE, prior, known=k) for k in (known, "hard_clip:threshold=0.15", curve))
    np.testing.assert_array_equal(given.audio, text.audio)
    np.testing.assert_allclose(given.audio, table.audio, atol=1e-4)
    assert text.known == "hard_clip:threshold=0.15"


@pytest.mark.parametrize("known", ["hard_clip", "hrad_clip:threshold=1", "hard_clip:sdr=3", "", 0.25, np.tanh, {}])
def test_what_is_no_operator_is_refused(prior: Prior, known: Any) -> None:
    with pytest.raises(NldiffError):
        restore(clipped(0.3, TINY_RATE)[0], TINY_RATE, prior, known=known)


@pytest.mark.parametrize("prior", [[], ["guitar"], "violin", None, 3])
def test_what_is_no_prior_is_refused(prior: Any) -> None:
    with pytest.raises(NldiffError, match="prior"):
        restore(clipped(0.3, TINY_RATE)[0], TINY_RATE, prior)


# ------------------------------------------------------------ results


@pytest.mark.parametrize("channels", [0, 2])
def test_a_saved_restoration_is_what_the_command_writes(prior: Prior, tmp_path: Path, channels: int) -> None:
    y = clipped(0.3, TINY_RATE, max(channels, 1))
    sf.write(tmp_path / "take.wav", y.T, TINY_RATE, subtype="FLOAT")
    outputs = restore_file(tmp_path / "take.wav", tmp_path / "files", prior)
    result = restore(y if channels else y[0], TINY_RATE, prior)
    result.save(tmp_path / "saved", "take")
    assert {p.name for p in (tmp_path / "saved").iterdir()} == {p.name for p in (tmp_path / "files").iterdir()}
    np.testing.assert_array_equal(sf.read(tmp_path / "saved" / "take.restored.wav")[0], sf.read(outputs.audio)[0])
    tables = (outputs.curve_table, tmp_path / "saved" / "take.curve.csv")
    first, second = (np.loadtxt(t, delimiter=",", skiprows=1) for t in tables)
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-7)
    written, saved = (json.loads(p.read_text()) for p in (outputs.report_path, tmp_path / "saved" / "take.json"))
    assert set(written) - set(saved) == {"input", "format", "clipped_samples", "threads", "number_type"}
    assert saved["explained_db"] == pytest.approx(written["explained_db"], abs=1e-3)
    assert saved["curve_range"] == pytest.approx(written["curve_range"], rel=1e-5)
    assert Curve.load(outputs.curve_table)(0.1) == pytest.approx(result.curve(0.1), abs=1e-4)


def test_the_curve_of_a_result_is_an_object(prior: Prior, fake: FakeSampler) -> None:
    y = clipped(0.3, TINY_RATE)[0]
    result = restore(y, TINY_RATE, prior)
    peak = np.abs(result.audio).max()
    assert result.curve.inputs[[0, -1]] == pytest.approx([-peak, peak], rel=1e-6)
    assert result.curve.look_up(result.audio) == pytest.approx(result.curve(result.audio), abs=1e-4)


def test_files_are_restored_without_settings(prior: Prior, tmp_path: Path) -> None:
    sf.write(tmp_path / "take.wav", clipped(0.3, TINY_RATE).T, TINY_RATE)
    outputs = restore_file(str(tmp_path / "take.wav"), str(tmp_path / "out"), method="observed")
    assert outputs.audio == tmp_path / "out" / "take.restored.wav"
    with pytest.raises(NldiffError, match="chunk_seconds"):
        restore_file(tmp_path / "take.wav", tmp_path, prior, nldiff.RestoreConfig(chunk_seconds=0))


# ------------------------------------------------------------ many recordings


def test_a_restorer_loads_once_and_restores_as_the_function_does(
    prior: Prior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def candidates(name: Any, device: Any) -> list[Prior]:
        loaded.append((str(name), str(device)))
        return [prior]

    monkeypatch.setattr("nldiff.restoration.inputs.load_candidates", candidates)
    steps: list[tuple[float, float]] = []
    restorer = Restorer("tiny", "cpu", on_step=lambda done, total, phase: steps.append((done, total)))
    recordings = [clipped(0.3, TINY_RATE, seed=seed)[0] for seed in (1, 2)]
    for y in recordings:
        np.testing.assert_array_equal(restorer.restore(y, TINY_RATE).audio, restore(y, TINY_RATE, prior).audio)
    assert loaded == [("tiny", "cpu")]
    assert steps[-1][0] == steps[-1][1] > 0
    paths = [tmp_path / f"{n}.wav" for n in range(2)]
    for path, y in zip(paths, recordings, strict=True):
        sf.write(path, y, TINY_RATE, subtype="FLOAT")
    outputs = list(restorer.restore_files(paths, tmp_path / "out"))
    for output, y in zip(outputs, recordings, strict=True):
        np.testing.assert_array_equal(sf.read(output.audio)[0], restorer.restore(y, TINY_RATE).audio)
    assert loaded == [("tiny", "cpu")]


def test_a_restorer_draws_with_its_settings(prior: Prior) -> None:
    y, config = clipped(0.3, TINY_RATE)[0], RestoreConfig(seed=5)
    found = Restorer(prior, config=config).restore_draws(y, TINY_RATE, 2)
    expected = restore_draws(y, TINY_RATE, prior, samples=2, config=config)
    np.testing.assert_array_equal(found.audio, expected.audio)
    assert found.spread.any()


def test_a_restorer_is_checked_when_it_is_made(prior: Prior) -> None:
    for arguments in ({"device": "bogus"}, {"method": "demcus"}, {"known": "hrad"}, {"method": "informed"}):
        with pytest.raises(NldiffError):
            Restorer(prior, **arguments)  # type: ignore[arg-type]
    known = Restorer(prior, known="hard_clip:threshold=0.15")
    assert known.restore(clipped(0.3, TINY_RATE)[0], TINY_RATE).method == "informed"
