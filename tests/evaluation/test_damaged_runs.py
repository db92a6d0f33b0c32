"""Run folders with damaged files: `evaluate` does again what they held, and says it once."""

import json
import os
import shutil
from pathlib import Path

import pytest
from damage import damaged
from experiments import quick, timeless

from nldiff.errors import NldiffError
from nldiff.evaluation import evaluate
from nldiff.evaluation.experiment import _settle_settings
from nldiff.evaluation.finished import read_row

pytest_plugins = ["experiment_fixtures"]
CHANGES = ("save_audio=true", "embeddings={log_mel: null}")


@pytest.fixture(scope="module")
def whole(clips: Path, prior_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all kinds of files."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nldiff.figures.draw", lambda folder: [])
        evaluate(quick(clips, prior_file, *CHANGES), folder)
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


PATTERNS = (
    "cells/*.json", "curves/*/truth.csv", "curves/*/ccr.csv", "traces/*/ccr.csv", "traces/*/ccr.curves.csv",
    "audio/*/clean.flac", "audio/*/observed.flac", "audio/*/ccr.flac", "embeddings/log_mel/clean*.npy",
    "embeddings/log_mel/half_wave*.npy", "results.csv", "results.parquet", "frechet.csv", "summary.md",
)  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_damaged_file_is_done_again(
    pattern: str, whole: Path, clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    path = sorted(run.glob(pattern))[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    warnings: list[str] = []
    evaluate(quick(clips, prior_file, *CHANGES), run, warn=warnings.append)
    result = path.parent.name == "run"
    assert len(warnings) == (0 if result else 1), warnings
    assert result or warnings[0].endswith(": done again")
    assert files(run) == files(whole)
    assert timeless(run) == timeless(whole)
    if path.suffix != ".parquet" and path.name != "results.csv" and "cells" not in pattern:  # those hold times
        assert path.read_bytes() == (whole / path.relative_to(run)).read_bytes()


def test_a_row_of_another_cell_is_done_again(
    whole: Path, clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    first, second = sorted((run / "cells").glob("*.json"))[:2]
    shutil.copy(first, second)
    warnings: list[str] = []
    evaluate(quick(clips, prior_file, *CHANGES), run, warn=warnings.append)
    assert len(warnings) == 1
    assert timeless(run) == timeless(whole)


def test_a_pipe_in_place_of_a_cell_is_done_again(
    whole: Path, clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    run = shutil.copytree(whole, tmp_path / "run")
    path = sorted((run / "cells").glob("*.json"))[0]
    path.unlink()
    os.mkfifo(path)
    evaluate(quick(clips, prior_file, *CHANGES), run)
    assert timeless(run) == timeless(whole)


def test_damaged_settings_are_one_line_that_says_what_to_do(
    whole: Path, clips: Path, prior_file: Path, tmp_path: Path
) -> None:
    path, config = tmp_path / "settings.yaml", quick(clips, prior_file, *CHANGES)
    content, refused = (whole / "settings.yaml").read_bytes(), 0
    for version in damaged(content, 100):
        path.write_bytes(version)
        try:
            _settle_settings(config, tmp_path, write=False)
        except NldiffError as error:
            refused += 1
            assert "\n" not in str(error)
            assert f"{path} is damaged" in str(error) or "holds results of other settings" in str(error)
    assert refused > 50
    path.unlink()
    _settle_settings(config, tmp_path, write=True)
    assert path.read_bytes() == content


def test_what_is_wrong_with_a_cell_is_one_line(tmp_path: Path) -> None:
    path, blank = tmp_path / "cell.json", {"task": "x", "status": "ok", "files": None}
    path.write_text(json.dumps({**blank, "status": "o\nk"}))
    with pytest.raises(NldiffError, match=r"unexpected status: 'o\\nk'$"):
        read_row(path, blank)
