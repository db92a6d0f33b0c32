"""Tables of a run: both formats, files beside them, the summary by hand."""

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import columns, quick, table

from nldiff.evaluation import evaluate
from nldiff.evaluation.tables import by_clip, summary

pytest_plugins = ["experiment_fixtures"]


def test_both_tables_hold_the_same(reference: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet").read_table(reference / "results.parquet").to_pylist()
    rows = table(reference)
    names = ["task", "distortion", "level", "level_name", "method", "clip", "seed", "status", "error", "seconds"]
    names += ["si_sdr", "rr_mse", "explained_db"]
    assert list(rows[0]) == list(parquet[0]) == names
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in parquet] == rows
    assert {(r["task"], r["level"], r["level_name"]) for r in rows} == {
        ("hard_clip", "3.0", "input SDR"), ("half_wave", "", ""),
    }  # fmt: skip
    assert all((row["rr_mse"] == "") == (row["method"] == "observed") for row in rows)


def test_curves_and_traces_are_kept(reference: Path) -> None:
    group = reference / "curves" / "half_wave__more-b__0"
    x, y = columns(group / "truth.csv")
    assert (group / "truth.csv").read_text().splitlines()[0] == "x,y"
    assert (len(x), x[0], x[-1]) == pytest.approx((1000, -0.18, 0.18), rel=1e-5)
    assert y == pytest.approx(np.maximum(x, 0))
    assert columns(group / "ccr.csv").shape == (2, 1000)
    assert not (group / "observed.csv").exists()
    shapes = reference / "traces" / "half_wave__more-b__0" / "ccr.curves.csv"
    x, *curves = columns(shapes)
    assert np.all(np.diff(x) > 0)
    assert shapes.read_text().splitlines()[0].split(",") == ["x", *map(str, range(len(curves)))]
    trace = reference / "traces" / "half_wave__more-b__0" / "ccr.csv"
    assert len(curves) == len(trace.read_text().splitlines()) - 1
    assert trace.read_text().splitlines()[0] == "step,sigma,cost"
    step, sigma, cost = columns(trace)
    assert step.tolist() == [0, 1]
    assert sigma.tolist() == pytest.approx([1.0, 1e-3])
    assert (cost > 0).all()


def _row(method: str, clip: str, seed: int, value: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "task": "hard_clip", "distortion": "hard_clip:sdr=3", "level": 3.0, "level_name": "input SDR",
        "method": method, "clip": clip, "seed": seed, "status": "ok", "error": "", "seconds": 1.0, "sdr": value,
    } | changes  # fmt: skip


def test_the_summary_by_hand() -> None:
    rows = [_row("a", "1", 0, 10.0), _row("a", "1", 1, 20.0), _row("a", "2", 0, 30.0), _row("a", "3", 0, None)]
    rows += [_row("b", "1", 0, 14.0), _row("b", "2", 0, 26.0), _row("b", "4", 0, 7.0)]
    rows += [_row("b", "3", 0, None, status="failed", error="gave | up")]
    text = summary(rows, ["sdr"], [], "a", ["sdr: reference is silent"] * 2)
    # clip 1 of a is 15 on average over its seeds; clip 3 has no value
    assert "| hard_clip:sdr=3 | a | 3 | 0 | 22.50 [15.00, 30.00] (of 2) |" in text
    mean = text.split("### Mean")[1]
    assert re.search(r"\| b \| 3 \| 1 \| 15\.67 \[7\.00, 26\.00\] \|", mean)
    # pairs: 14 - 15 and 26 - 30; clip 4 has no partner
    assert "| hard_clip:sdr=3 | b | -2.50 [-4.00, -1.00], p = 0.500 (of 2) |" in text
    assert "8 cells, 1 failed" in text
    assert "| hard_clip:sdr=3 | b | 3 | 0 | gave \\| up |" in text
    assert "| sdr: reference is silent | 2 |" in text


def test_the_mean_over_seeds_is_taken_for_every_clip() -> None:
    rows = [_row("a", str(clip), seed, 10.0 * clip + 2 * seed) for clip in range(7) for seed in (0, 1)]
    rows.append(_row("a", "6", 2, 999.0, status="failed"))
    assert by_clip(rows, "sdr") == {str(clip): 10.0 * clip + 1 for clip in range(7)}


def test_medians_and_differences_of_many_clips_by_hand() -> None:
    # Skewed: median, mean and the first three clips all tell another story.
    gains = [1.0, 2.0, 3.0, 4.0, 90.0]
    rows = [_row("a", str(clip), 0, 100.0 * clip) for clip in range(5)]
    rows += [_row("b", str(clip), 0, 100.0 * clip + gain) for clip, gain in enumerate(gains)]
    median, mean, difference = summary(rows, ["sdr"], [], "a").split("###")[1:]
    assert "| b | 5 | 0 | 203.00 [" in median
    assert "| b | 5 | 0 | 220.00 [" in mean
    assert difference.startswith(" Difference from a on the same clips, median")
    # all of five differences positive: 2 of the 2^5 sign patterns are as extreme
    assert re.search(r"\| b \| \+3\.00 \[\+?1\.00, \+?90\.00\], p = 0\.062 \|", difference)


def test_a_set_that_was_not_changed_has_distance_0(
    clips: Path, prior_file: Path, tmp_path: Path, undrawn: list[Path]
) -> None:
    changes = ["methods=[observed]", "distortions=[hard_clip:threshold=1, half_wave]", "embeddings={log_mel: null}"]
    evaluate(quick(clips, prior_file, *changes), tmp_path)
    found = {row["distortion"]: row for row in table(tmp_path, "frechet.csv")}
    assert found["hard_clip:threshold=1"]["embedding"] == "log-mel (not FAD)"
    assert float(found["hard_clip:threshold=1"]["distance"]) == pytest.approx(0, abs=1e-6)
    assert float(found["half_wave"]["distance"]) > 0.1
    assert found["half_wave"]["clips"] == "2"
