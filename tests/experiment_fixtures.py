"""Fixtures of the tests of experiments: `pytest_plugins = ["experiment_fixtures"]`."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from experiments import RATE, quick
from helpers import plucked, save_tiny_prior

from nldiff.evaluation import evaluate


@pytest.fixture(scope="session")
def prior_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior of random weights."""
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 1.1 s, one of them stereo in a subfolder."""
    folder = tmp_path_factory.mktemp("clips")
    (folder / "more").mkdir()
    sf.write(folder / "a.wav", plucked(1.1, RATE, 1), RATE, subtype="FLOAT")
    sf.write(folder / "more" / "b.wav", np.stack([plucked(1.1, RATE, n) for n in (2, 3)], 1), RATE, subtype="FLOAT")
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Folders whose figures were asked for; none is drawn, which has tests of its own."""
    folders: list[Path] = []
    monkeypatch.setattr("nldiff.figures.draw", folders.append)
    return folders


@pytest.fixture(scope="session")
def reference(clips: Path, prior_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run of `quick`."""
    folder = tmp_path_factory.mktemp("reference")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nldiff.figures.draw", lambda folder: [])
        evaluate(quick(clips, prior_file), folder)
    return folder
