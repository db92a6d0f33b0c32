from pathlib import Path

import numpy as np
import pytest
from run_folders import ERROR, METHODS, write_rows, write_run

from nldiff.errors import NldiffError
from nldiff.figures.run_folder import (
    Cell,
    estimators,
    metric_label,
    metrics_of,
    read_cells,
    read_columns,
    setting_name,
    slug,
    tables_of,
)

HEADER = ("task", "distortion", "level", "level_name", "method", "clip", "seed", "status", "error", "seconds", "lsd")
ROW = dict(zip(HEADER, ("t", "t:sdr=3", "3", "input SDR", "m", "c/d", "0", "ok", "", "1", "2.5"), strict=True))


def table(folder: Path, *rows: dict[str, str]) -> Path:
    write_rows(folder / "results.csv", rows)
    return folder


def test_cells(tmp_path: Path) -> None:
    nothing = ROW | {"level": "", "level_name": "", "status": "failed", "error": "because", "lsd": ""}
    one, other = read_cells(table(tmp_path, ROW, nothing))
    assert one == Cell("t", "t:sdr=3", 3.0, "input SDR", "m", "c/d", "0", False, "", {"lsd": 2.5})
    assert other == Cell("t", "t:sdr=3", None, "", "m", "c/d", "0", True, "because", {})
    assert (one.group, setting_name(one), setting_name(other)) == ("t-sdr-3__c-d__0", "input SDR 3 dB", "t:sdr=3")


def test_scores_that_are_not_finite_are_none(tmp_path: Path) -> None:
    rows = [ROW | {"lsd": text, "level": "nan"} for text in ("nan", "inf", "-inf", "")]
    assert [(cell.scores, cell.level) for cell in read_cells(table(tmp_path, *rows))] == [({}, None)] * 4


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    with pytest.raises(NldiffError, match=r"results\.csv does not exist$"):
        read_cells(tmp_path)
    for text, reason in (
        ("task,method\n", "holds no results$"),
        ("task,method\nt,m\n", "has no column 'distortion'$"),
        ("task,method\nt,m\nt\n", "row 2 is not as long as the header$"),
        ("task,method\nt,m,x\n", "row 1 is not as long as the header$"),
    ):
        path.write_text(text)
        with pytest.raises(NldiffError, match=reason):
            read_cells(tmp_path)
    with pytest.raises(NldiffError, match=r"results\.csv: lsd 'much' is not a number$"):
        read_cells(table(tmp_path, ROW | {"lsd": "much"}))
    with pytest.raises(NldiffError, match=r"level 'high' is not a number$"):
        read_cells(table(tmp_path, ROW | {"level": "high"}))


def test_columns(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("x,y\n-1,1e-3\n2.5,nan\n")
    columns = read_columns(path)
    np.testing.assert_array_equal(columns["x"], [-1, 2.5])
    np.testing.assert_array_equal(columns["y"], [1e-3, np.nan])
    path.write_text("x,y\n")
    with pytest.raises(NldiffError, match=r"curve\.csv holds no rows$"):
        read_columns(path)


def test_names() -> None:
    assert slug("hard_clip:sdr=3__a/b c.2__0") == "hard_clip-sdr-3__a-b-c.2__0"
    assert slug("../x") == "x"
    assert estimators(["a", "observed", "b"]) == ["a", "b"]
    assert metric_label("si_sdr") == "SI-SDR (dB) ↑"
    assert metric_label("redistorted_lsd") == "LSD re-distorted (bel²) ↓"
    assert metric_label("stoi") == "STOI ↑"
    assert metric_label("something") == "something"


def test_a_whole_run(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    cells = read_cells(run)
    assert len(cells) == 4 * 3 * len(METHODS)
    assert [cell.error for cell in cells if cell.failed] == [ERROR]
    assert metrics_of(cells) == ["si_sdr", "lsd", "rr_mse"]
    curves = tables_of(run / "curves" / cells[0].group, METHODS)
    assert list(curves) == ["blind-ccr", "blind-mlp", "informed"]
    assert list(tables_of(run / "traces" / cells[0].group, METHODS, ".curves.csv")) == list(curves)
