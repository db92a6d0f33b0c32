"""The benchmarks still run; how long anything takes is not tested."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import soundfile as sf
import yaml
from helpers import TINY_NETWORK, TINY_RATE, TINY_SETTINGS, clipped, plucked, save_tiny_prior

from nldiff.operators.waveshapers import WAVESHAPERS

FOLDER = Path(__file__).parents[1] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NCSNPP = {"name": "ncsnpp", "channels": [4, 4], "n_fft": 30, "hop": 8, "embedding": 8}


@pytest.mark.parametrize(
    ("kind", "network_config", "transforms"),
    [("configuration", TINY_NETWORK, 2), ("configuration", NCSNPP, 0), ("prior", {}, 2)],
)
def test_every_part_of_a_step_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, network_config: dict[str, Any], transforms: int
) -> None:
    if kind == "prior":
        network = save_tiny_prior(tmp_path / "tiny.safetensors")
    else:
        network = tmp_path / "tiny.yaml"
        config = {"network": network_config, "sample_rate": TINY_RATE, "settings": TINY_SETTINGS}
        network.write_text(yaml.safe_dump(config | {"train_data": "${oc.env:NLDIFF_NOT_SET}"}))
    arguments = [str(network), "--device", "cpu", "--threads", "1", "--seconds", "0.2", "--repeats", "1"]
    assert script("steps").main(arguments) == 0
    title, *table = capsys.readouterr().out.strip().splitlines()
    assert title.startswith("tiny: 0.0 M parameters, ")
    assert f"0.2 s at {TINY_RATE} Hz, cpu, 1 threads" in title
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[3:]]
    assert len(rows) == transforms + len(WAVESHAPERS) + 3
    curves = rows[transforms : transforms + len(WAVESHAPERS)]
    assert [row[0].split(", ")[-1] for row in curves] == sorted(WAVESHAPERS)
    assert rows[-1][0] == "one guided step with 2 iterations on the curve, ccr"
    assert all(float(time) > 0 and float(memory) > 10 for _, time, memory in rows)
    memory = [float(row[2]) for row in rows]
    assert memory == sorted(memory)


def test_an_unknown_network_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert script("steps").main(["violin", "--device", "cpu", "--threads", "1"]) == 1
    assert capsys.readouterr().err == "error: unknown prior 'violin': neither a file nor one of: guitar, speech\n"


def test_the_whole_program_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prior = save_tiny_prior(tmp_path / "tiny.safetensors")
    arguments = ["0.3x2", "--prior", str(prior), "--device", "cpu", "--threads", "1", "--set", "sampler.steps=2"]
    assert script("restore_time").main(arguments) == 0
    name, wall, cpu, memory = (cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].strip("|").split("|"))
    assert name == "0.3 s, stereo"
    assert float(wall) > 0
    assert float(cpu) > 0
    assert float(memory) > 100  # Python with PyTorch


def test_the_recording_has_the_length_and_channels_asked_for(tmp_path: Path) -> None:
    script("restore_time").write_recording(tmp_path / "a.wav", 7.5, 2)
    samples, rate = sf.read(tmp_path / "a.wav")
    assert (rate, samples.shape) == (44100, (330750, 2))
    example, _ = sf.read(FOLDER.parent / "examples" / "guit_em9_distorted.flac")
    assert samples[0] == pytest.approx([example[0], example[len(example) // 2]], abs=1e-4)
    assert samples[len(example)] == pytest.approx(samples[0], abs=1e-9)


def test_the_stages_of_a_restoration_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refinement = {"iterations": 20, "windows": [256, 512]}
    prior = save_tiny_prior(tmp_path / "tiny.safetensors", settings={"refinement": refinement})
    sf.write(tmp_path / "take.wav", clipped(1.0, TINY_RATE)[0], TINY_RATE)
    arguments = ["--prior", str(prior), "--known", "hard_clip:threshold=0.15", str(tmp_path / "take.wav")]
    arguments = ["--threads", "1", *arguments, "device=cpu"]
    assert script("stages").main(arguments) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    seconds = {stage: float(wall) for stage, wall, _ in rows[1:]}
    assert {"import", "refining the signal", "writing and drawing"} <= set(seconds)
    parts = sum(seconds.values()) - seconds["together"]
    assert seconds["together"] == pytest.approx(parts, abs=0.01 * len(seconds))


def test_a_misspelt_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script("restore_time").main(["6x3"])
    assert caught.value.code == 2
    assert "6x3" in capsys.readouterr().err


def test_mixed_recordings_are_restored_once_and_counted_by_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refinement = {"iterations": 60, "windows": [256, 512, 1024]}
    prior = save_tiny_prior(tmp_path / "tiny.safetensors", settings={"refinement": refinement})
    (tmp_path / "clips").mkdir()
    sf.write(tmp_path / "clips" / "a.wav", plucked(1.5, TINY_RATE), TINY_RATE)
    results = tmp_path / "results.jsonl"
    arguments = [str(tmp_path / "clips"), "--prior", str(prior), "--results", str(results), "--kinds", "clean, stereo"]
    for kinds in ([], ["hard_clip 3 dB"]):
        script("mixed").main([*arguments, *kinds])
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in capsys.readouterr().out.splitlines()}
    assert rows["clean, stereo"][1:3] == ["2", "150.0"]
    assert rows["clean, stereo"][5:7] == ["1 of 1", "0"]
    assert float(rows["hard_clip 3 dB"][3]) > float(rows["hard_clip 3 dB"][2]) + 1
    assert len(results.read_text().splitlines()) == 2  # the clean one was there already
