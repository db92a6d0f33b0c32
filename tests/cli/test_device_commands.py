"""`nldiff identify`, and its operator through `nldiff apply`; `nldiff restore --same-operator`."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from command_line import names, one_line, quick_sampler, results, write
from helpers import TINY_RATE, plucked, save_tiny_prior
from scipy.signal import lfilter

from nldiff.cli import run_command
from nldiff.curves import Curve
from nldiff.operators import Chain, Identity, Rescaled, load_operator, save_operator


def nldiff(command: str, *arguments: str | Path) -> int:
    return run_command(command, list(map(str, arguments)), f"nldiff {command}")


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Strings, and the same clipped at 0.2, high-passed at 60 Hz, 25 samples late."""
    x = plucked(2.0, TINY_RATE)
    k = np.tan(np.pi * 60 / TINY_RATE)
    y = np.concatenate([np.zeros(25), lfilter([1, -1], [1 + k, k - 1], x.clip(-0.2, 0.2))])
    for name, samples in (("clean", x), ("observed", y)):
        sf.write(tmp_path / f"{name}.wav", samples, TINY_RATE, subtype="FLOAT")
    return tmp_path / "clean.wav", tmp_path / "observed.wav"


@pytest.mark.parametrize("device", ["operator.json", "csv"])
def test_what_no_file_can_hold_is_not_written(
    device: str, pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = tmp_path / f"device.{device}"
    if device == "csv":
        Curve([-1, 1], [-8e307, 8e307]).save(operator)
    else:
        save_operator(Rescaled(Identity(), 1.0, 1e300), operator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nldiff("apply", operator, pair[0], "-o", tmp_path / "out.wav") == 1
    assert "beyond the numbers of audio files" in one_line(capsys)
    assert not (tmp_path / "out.wav").exists()


def test_recordings_that_have_nothing_to_do_with_each_other(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = tmp_path / "noise.wav"
    sf.write(noise, np.random.default_rng(0).normal(size=TINY_RATE) / 9, TINY_RATE, subtype="FLOAT")
    assert nldiff("identify", pair[0], noise, "--operator", "hard_clip", "-o", tmp_path / "out", "--quiet") == 0
    assert "noise.wav: little of it is explained" in capsys.readouterr().err


def test_a_device_goes_from_identify_to_apply(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert nldiff("identify", *pair, "--operator", "hard_clip > highpass", "-o", out) == 0
    said = capsys.readouterr().out
    assert "the observed recording is 25.00 samples late" in said
    ends = (".operator.json", ".curve.csv", ".device.png", ".json")
    assert names(out) == {f"observed{end}" for end in ends}
    report = json.loads((out / "observed.json").read_text())
    assert report["held_out_esr_db"] < -50
    assert f"held out {report['held_out_esr_db']:.1f} dB" in said
    chain = load_operator(out / "observed.operator.json")
    assert isinstance(chain, Chain)
    clip, highpass = (dict(part.params) for part in chain.operators)  # type: ignore[attr-defined]
    assert clip["threshold"] == pytest.approx(0.2, rel=1e-3)
    assert highpass["hz"] == pytest.approx(60, rel=0.01)
    table = np.genfromtxt(out / "observed.curve.csv", delimiter=",", skip_header=1)
    np.testing.assert_allclose(table[:, 1], table[:, 0].clip(-clip["threshold"], clip["threshold"]), atol=1e-6)
    operator = out / "observed.operator.json"
    assert nldiff("apply", operator, pair[0], "-o", tmp_path / "again.wav", "--antialias", "none", "--quiet") == 0
    again, y = sf.read(tmp_path / "again.wav")[0], sf.read(pair[1])[0][25:]
    assert np.sum((again - y) ** 2) < 1e-5 * np.sum(y**2)
    # driven half as hard and amplified after it
    options = ["--gain", "-6.020599913", "--output-gain", "6.020599913", "--antialias", "none", "--quiet"]
    assert nldiff("apply", operator, pair[0], "-o", tmp_path / "soft.wav", *options) == 0
    k = np.tan(np.pi * highpass["hz"] / TINY_RATE)
    soft = 2 * lfilter([1, -1], [1 + k, k - 1], (sf.read(pair[0])[0] / 2).clip(-clip["threshold"], clip["threshold"]))
    np.testing.assert_allclose(sf.read(tmp_path / "soft.wav")[0], soft, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "bad.json is no operator of nldiff"),
        ("not json", "bad.json is no JSON file"),
        ('{"format": "nldiff operator", "version": 99}', "version 99 of the format"),
        (
            '{"format": "nldiff operator", "version": 1, "operator": {"type": "fuzz"}}',
            "unknown type of operator 'fuzz'",
        ),
    ],
)
def test_an_operator_that_is_none_is_one_line(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.json").write_text(content)
    assert nldiff("apply", tmp_path / "bad.json", write(tmp_path / "take.wav")) == 1
    assert message in one_line(capsys)


def test_pairs_that_do_not_fit_are_one_line(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.wav"
    sf.write(other, plucked(1.0, 16000), 16000)
    for arguments, message in (
        ([pair[0], other], "8000 Hz: the same rate expected"),
        ([pair[0], tmp_path / "none.wav"], "none.wav does not exist"),
        ([*pair, "--operator", "fuzz"], "unknown distortion 'fuzz'"),
    ):
        assert nldiff("identify", *arguments, "-o", tmp_path / "out") == 1
        assert message in one_line(capsys)
    assert names(tmp_path / "out") == set()


def test_inputs_of_one_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick_sampler(monkeypatch)
    prior = save_tiny_prior(tmp_path / "tiny.safetensors")
    takes = [write(tmp_path / f"{name}.wav", 0.5, seed) for seed, name in enumerate("ab")]
    options: list[str | Path] = ["--prior", prior, "--same-operator"]
    assert nldiff("restore", *takes, "-o", tmp_path / "out", *options) == 0
    assert names(tmp_path / "out") == results("a", "b") | {"device.operator.json"}
    assert "one operator" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    refused: list[tuple[list[str | Path], str]] = [
        (["--known", "half_wave"], "not with --known"),
        (["--samples", "2"], "not with --samples"),
        (["-o", "-"], "files expected, not standard input or output"),
        (["-o", tmp_path / "one.wav"], "a folder expected for 2 inputs"),
        ([write(tmp_path / "other" / "a.wav", 0.5)], "inputs whose results have different names"),
    ]
    for wrong, message in refused:
        assert nldiff("restore", *takes, "-o", tmp_path / "out", *options, *wrong) == 1
        assert message in one_line(capsys)
