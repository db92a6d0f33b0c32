"""Hard-clipped excerpts of the declipping survey of 2021 and the published grades of them, where they are at hand."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from nldiff.metrics.sdr import FloatArray

EXCERPTS = 10
SHORTEST = 9  # wind ensemble, 5.7 s
GLOCKENSPIEL = 4
LEVELS = 7  # input SDR of 1, 3, 5, 7, 10, 15 and 20 dB


def survey() -> Path:
    """Folder of the survey; without it the test is skipped, by name."""
    folder = Path(os.environ.get("NLDIFF_DATA", "")) / "declipping_survey"
    if not folder.is_dir():
        pytest.skip("published grades not checked: $NLDIFF_DATA/declipping_survey is missing")
    return folder


def published(metric: str, method: str = "clipped") -> FloatArray:
    """Grades of the clipped or restored signals, `[excerpts, levels]`."""
    return np.array(json.loads((survey() / "published_results.json").read_text())["results"][metric][method])


def clipped_excerpt(excerpt: int, level: int) -> tuple[FloatArray, FloatArray, int]:
    """Clean and clipped signal, `[time]`, and their sample rate."""
    folder = survey()
    name, thresholds = list(json.loads((folder / "thresholds.json").read_text()).items())[excerpt]
    clean, rate = sf.read(folder / name)
    threshold = thresholds[level][0]
    return clean, np.clip(clean, -threshold, threshold), rate
