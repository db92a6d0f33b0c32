"""What the cheap hypotheses say of a recording."""

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import TINY_RATE, load_tiny_prior, plucked, save_tiny_prior

from nldiff import sound
from nldiff.cli import main
from nldiff.errors import NldiffError
from nldiff.restoration.diagnosis import diagnose
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.recording import Recording

SETTINGS: dict[str, Any] = {"settings": {"refinement": {"iterations": 60, "windows": [256, 512, 1024]}}}


def test_channels_are_told_apart(tmp_path: Path) -> None:
    x = plucked(2.5, TINY_RATE)
    y = np.stack([x.clip(-0.12, 0.12) + np.float32(0.2), x, np.zeros_like(x)])
    prior = load_tiny_prior(tmp_path, **SETTINGS)
    clipped, clean, silent = diagnose(Recording.from_array(y, TINY_RATE), [prior], RestoreConfig(device="cpu"))
    assert clipped.verdict
    assert clipped.verdict.finding == "distorted"
    assert clipped.part.offset == pytest.approx(0.2, abs=0.02)
    assert clipped.curve[-1, 1] == pytest.approx(0.32, abs=0.01)
    assert clipped.text.startswith("clipped, confidence 99%")
    assert clipped.text.endswith("of the samples are lost where it is loudest")  # one second is looked at
    assert clean.verdict
    assert clean.verdict.finding == "nothing happened"
    assert clean.text == "no distortion found"
    assert silent.verdict is None
    assert silent.values()["finding"] == "silent"


def test_the_command_prints_text_or_json_and_goes_on_after_a_bad_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny_prior(tmp_path / "tiny.safetensors", **SETTINGS)
    bad, good = tmp_path / "a.wav", tmp_path / "b.wav"
    bad.write_bytes(b"RIFF")
    sound.write_wav(good, plucked(2.5, TINY_RATE)[None].clip(-0.12, 0.12), TINY_RATE)
    arguments = ["diagnose", str(bad), str(good), "--prior", str(model), "device=cpu"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out.splitlines()[0] == str(good)
    assert out.splitlines()[1].startswith("  clipped, confidence ")
    assert main([*arguments, "--json"]) == 1
    (part,) = json.loads(capsys.readouterr().out)["parts"]
    assert part["finding"] == "distorted"
    assert part["exact"] + part["interval"] + part["unknown"] == pytest.approx(1)


def test_the_command_reads_what_a_restoration_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny_prior(tmp_path / "tiny.safetensors", **SETTINGS)
    folder = tmp_path / "in"
    folder.mkdir()
    take = folder / "take.wav"
    sound.write_wav(take, plucked(2.5, TINY_RATE)[None].clip(-0.12, 0.12), TINY_RATE)
    shutil.copy(take, folder / "take.restored.wav")  # of an earlier run
    expected = [take]
    if shutil.which("ffmpeg"):
        expected.insert(0, folder / "clip.mkv")
        subprocess.run(["ffmpeg", "-v", "error", "-i", take, "-c:a", "flac", expected[0]], check=True)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(take.read_bytes())))
    assert main(["diagnose", str(folder), "-", "--prior", str(model), "-d", "cpu", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["input"] for each in found] == [*map(str, expected), "standard input"]
    assert {each["parts"][0]["hypothesis"] for each in found} == {"clipped"}


def test_the_device_is_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sound.write_wav(tmp_path / "a.wav", plucked(0.5, TINY_RATE)[None], TINY_RATE)
    assert main(["diagnose", str(tmp_path / "a.wav"), "device=cpu", "-d", "gpu"]) == 1
    assert capsys.readouterr().err.startswith("error: device 'gpu': ")


@pytest.mark.parametrize(
    ("arguments", "prior"),
    [([], "auto"), (["prior=speech"], "speech"), (["prior=speech", "--prior", "a=b"], "a=b")],
)
def test_the_prior_is_an_option_or_a_setting(
    arguments: list[str],
    prior: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(name: str, device: object) -> None:
        raise NldiffError(f"prior {name}")

    sound.write_wav(tmp_path / "a.wav", plucked(0.5, TINY_RATE)[None], TINY_RATE)
    monkeypatch.setattr("nldiff.cli.diagnose.load_candidates", refused)
    assert main(["diagnose", str(tmp_path / "a.wav"), *arguments]) == 1
    assert capsys.readouterr().err == f"error: prior {prior}\n"
