"""A small folder as `nldiff evaluate` writes it, of stand-ins for methods that are quick and known exactly."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from helpers import plucked
from numpy.typing import NDArray

from nldiff.figures.run_folder import slug
from nldiff.metrics import lsd, si_sdr
from nldiff.operators import parse_operator

Array = NDArray[np.float64]

# Part of the distortion that each of them leaves.
METHODS = {"observed": 1.0, "blind-ccr": 0.3, "blind-mlp": 0.5, "informed": 0.15}
# Task, distortion, level, level's name.
SETTINGS = (
    ("hard_clip", "hard_clip:sdr=1", "1", "input SDR"),
    ("hard_clip", "hard_clip:sdr=3", "3", "input SDR"),
    ("hard_clip", "hard_clip:sdr=7", "7", "input SDR"),
    ("half_wave", "half_wave", "", ""),
)
RATE = 8000
SECONDS = 1.2
STEPS = 12
FAILED = ("hard_clip:sdr=1", "blind-mlp", "b")
ERROR = "no <finite> estimate & no curve"
POINTS = 1000


def write_run(
    folder: Path,
    clips: Mapping[str, Array] | None = None,
    rate: int = RATE,
    methods: Mapping[str, float] | None = None,
    settings: Sequence[tuple[str, str, str, str]] = SETTINGS,
) -> Path:
    """Write tables, audio, curves and traces of every method on every setting and clip, one cell failed."""
    clips = clips or {name: plucked(SECONDS, rate, seed).astype(float) for seed, name in enumerate("abc")}
    methods = METHODS if methods is None else methods
    random = np.random.default_rng(0)
    rows = []
    for task, text, level, level_name in settings:
        for clip, clean in clips.items():
            distortion = parse_operator(text).build(torch.from_numpy(clean))
            observed = distortion(torch.from_numpy(clean)).numpy()
            group = slug(f"{text}__{clip}__0")
            _write_audio(folder / "audio" / group / "clean.flac", clean, rate)
            grid = np.linspace(-1, 1, POINTS) * 3 * clean.std()
            truth = distortion(torch.from_numpy(grid)).numpy()
            write_table(folder / "curves" / group / "truth.csv", {"x": grid, "y": truth})
            for method, left in methods.items():
                row = {"task": task, "distortion": text, "level": level, "level_name": level_name, "method": method}
                row |= {"clip": clip, "seed": "0", "status": "ok", "error": "", "seconds": "1.5"}
                rows.append(row)
                if (text, method, clip) == FAILED:
                    row |= {"status": "failed", "error": ERROR, "si_sdr": "", "lsd": "", "rr_mse": "nan"}
                    continue
                noise = 0.0 if method == "observed" else 0.0003
                restored = clean + left * (observed - clean) + noise * random.standard_normal(len(clean))
                _write_audio(folder / "audio" / group / f"{method}.flac", restored, rate)
                row["si_sdr"], row["lsd"] = (f"{score(clean, restored):.6g}" for score in (si_sdr, lsd))
                row["rr_mse"] = ""
                if method != "observed":
                    estimate = truth + left * 0.1 * grid
                    row["rr_mse"] = f"{20 * np.log10(left * 0.1) + random.normal():.6g}"
                    write_table(folder / "curves" / group / f"{method}.csv", {"x": grid, "y": estimate})
                    _write_traces(folder / "traces" / group, method, grid, estimate, left)
    write_rows(folder / "results.csv", rows)
    distances = [
        {"task": task, "distortion": text, "level": level, "level_name": name, "method": method}
        | {"embedding": "log-mel (not FAD)", "distance": f"{100 * left**2:g}"}
        for task, text, level, name in settings
        for method, left in methods.items()
    ]
    write_rows(folder / "frechet.csv", distances)
    return folder


def write_table(path: Path, columns: Mapping[str, Iterable[float]]) -> None:
    """Write columns of numbers as CSV."""
    values = zip(*columns.values(), strict=True)
    write_rows(path, [dict(zip(columns, map(repr, map(float, row)), strict=True)) for row in values])


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows of text as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_traces(folder: Path, method: str, grid: Array, estimate: Array, left: float) -> None:
    steps = np.arange(1, STEPS + 1)
    cost = 20 * left + 30 * np.exp(-steps / 3)
    write_table(folder / f"{method}.csv", {"step": steps, "sigma": 1 / steps, "cost": cost})
    # from the identity to the estimate
    curves = {str(step): grid + (estimate - grid) * step / STEPS for step in steps[:: max(1, STEPS // 6)]}
    write_table(folder / f"{method}.curves.csv", {"x": grid} | curves)


def _write_audio(path: Path, samples: Array, rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, samples.clip(-1, 1), rate, subtype="PCM_24")
