"""`nldiff train` and `nldiff train-baseline`: settings, progress."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import one_line

from nldiff.cli import main
from nldiff.cli.train import _TRAININGS
from nldiff.training.loop import StepReport
from nldiff.training.prior import TrainingConfig


def test_the_speed_of_a_resumed_training_is_that_of_its_new_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(config: TrainingConfig, resume: bool, on_step: Callable[[StepReport], None]) -> Path:
        for step in range(8001, 8007):
            time.sleep(0.05)
            on_step(StepReport(step, 1.0))
        return tmp_path / "prior.safetensors"

    monkeypatch.setitem(_TRAININGS, "prior", (TrainingConfig, resumed))
    monkeypatch.setenv("NLDIFF_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # its name is enough in any folder
    assert main(["train", "--config", "guitar_small", "steps=10000", "--resume"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'prior.safetensors'}\n"
    assert "8006/10000" in err
    speeds = [float(speed) for speed in re.findall("([0-9.]+)step/s", err)]
    assert speeds
    assert max(speeds) < 21


@pytest.mark.parametrize("command", ["train", "train-baseline"])
def test_a_misspelt_training_setting_is_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"run_dir: {tmp_path / 'run'}\n")
    assert main([command, "--config", str(path), "stpes=3"]) == 1
    assert "stpes" in one_line(capsys)
    assert not (tmp_path / "run").exists()
