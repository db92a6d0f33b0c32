"""`nldiff evaluate`: bad configurations; its results have tests of their own, see `tests/evaluation`."""

from pathlib import Path

import pytest
from command_line import one_line
from experiments import CONFIGS, command, quick

from nldiff.cli import main

pytest_plugins = ["experiment_fixtures"]

BAD: dict[str, tuple[list[str], list[str]]] = {
    "method": (["methods=[ccr, cccr]"], ["cccr", "aspade"]),
    "reference method": (["compare_to=best"], ["best", "observed"]),
    "metric": (["metrics=[si_srd]"], ["si_srd", "si_sdr"]),
    "embedding": (["embeddings={vgg: null}"], ["vgg", "vggish"]),
    "distortion": (["distortions=[hrad_clip]"], ["hrad_clip", "hard_clip"]),
    "parameter of the overdrive": (['distortions=["overdrive:drive=3"]'], ["drive", "colour"]),
    "key": (["secnds=3"], ["secnds"]),
    "value": (["rate=high"], ["rate", "high"]),
    "range": (["seconds=0.01"], ["seconds=0.01", "0.1"]),
    "seed": (["seeds=[-1]"], ["seeds=[-1]"]),
    "no methods": (["methods=[]"], ["methods"]),
    "setting of the sampler": (["restore.sampler.stpes=3"], ["stpes", "steps"]),
    "setting of another group": (["restore.refinement.nmae=none"], ["nmae", "name"]),
    "distortion of a chain": (["distortions=[half_wave > hrad_clip]"], ["hrad_clip", "hard_clip"]),
    "mix of a chain": (['distortions=["half_wave > hard_clip; mix=2"]'], ["mix=2"]),
    "prior of its own choice": (["restore.prior=auto"], ["restore.prior=auto"]),
    "prior": (["restore.prior=violin"], ["violin", "guitar"]),
    "settings of A-SPADE": (["aspade=long", "methods=[aspade]"], ["aspade=long", "survey"]),
    "weights of no network": (["weights={ccr: mine.safetensors}"], ["weights.ccr", "demucs"]),
    "no cells": (["methods=[aspade]", "distortions=[half_wave]"], ["aspade"]),
    "cell twice": (["methods=[observed, observed]"], ["2 cells", "observed"]),
    "data": (["data=/nowhere/at/all"], ["/nowhere/at/all"]),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_configuration_is_one_line_and_no_result(
    clips: Path, prior_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    changes, named = BAD[kind]
    assert main([*command(quick(clips, prior_file), tmp_path / "run", tmp_path), *changes]) == 1
    line = one_line(capsys)
    assert all(text in line for text in named)
    assert not (tmp_path / "run").exists()


def test_data_from_nowhere_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NLDIFF_DATA", raising=False)
    assert main(["evaluate", str(CONFIGS[0]), "--out", str(tmp_path / "run")]) == 1
    assert "NLDIFF_DATA" in one_line(capsys)
    assert main(["evaluate", str(tmp_path / "none.yaml"), "--out", str(tmp_path / "run")]) == 1
    assert "none.yaml" in one_line(capsys)
