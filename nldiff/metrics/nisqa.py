"""Speech quality without a reference: NISQA, the network in torchmetrics with weights from the user."""

import os
import pickle
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from nldiff.errors import NldiffError
from nldiff.metrics.packages import import_package
from nldiff.metrics.sdr import FloatArray, Signal, as_float64, as_float64_signal

NISQA_SCALES = ("mos", "noisiness", "discontinuity", "coloration", "loudness")
_VARIABLE = "NLDIFF_NISQA"


def nisqa(estimate: Signal, sample_rate: int, weights: str | Path | None = None) -> FloatArray:
    """Overall quality, the first of `nisqa_scores`.

    Args, Raises: as `nisqa_scores`.

    Returns:
        `[...]` (a numpy scalar for `[time]`), opinion score of nominally 1 to 5.
    """
    return nisqa_scores(estimate, sample_rate, weights)["mos"]


def nisqa_scores(estimate: Signal, sample_rate: int, weights: str | Path | None = None) -> dict[str, FloatArray]:
    """Opinion scores of speech as NISQA 2.0 predicts them (Mittag et al. 2021).

    Args:
        estimate: speech, `[..., time]`, tensor or array, of at most 52 s.
        sample_rate: in Hz; the network was trained on 48 kHz and takes all rates.
        weights: path of `nisqa.tar` from the authors' repository (github.com/gabrielmittag/NISQA; its licence, CC
            BY-NC-SA 4.0, keeps it out of this package); None takes the path from the variable NLDIFF_NISQA.

    Returns:
        Opinion scores of nominally 1 to 5, `[...]` each, higher is better for all: "mos" (overall), "noisiness",
        "discontinuity", "coloration", "loudness".

    Raises:
        NldiffError: torchmetrics or librosa is missing, the weights are missing or not NISQA's, a value is not
            finite, or the signal is too short or too long.
    """
    import_package("librosa", "nisqa")
    import_package("requests", "nisqa")
    package = import_package("torchmetrics.functional.audio.nisqa", "nisqa")
    y = as_float64_signal(estimate)
    path = weights or os.environ.get(_VARIABLE)
    if not path:
        raise NldiffError(f"NISQA needs its weights: set {_VARIABLE} to the path of nisqa.tar")
    model, settings = _load(Path(path))
    # The package's own entry point looks for the weights in the home directory and downloads them.
    samples = y.reshape(-1, y.shape[-1]).astype("float32")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_fft=.* is too large", category=UserWarning)
        spectrogram = package._get_librosa_melspec(samples, sample_rate, settings)
    try:
        windows, count = package._segment_specs(torch.from_numpy(spectrogram), settings)
    except RuntimeError as error:
        raise NldiffError(f"NISQA cannot rate {y.shape[-1] / sample_rate:.3g} s: {error}") from error
    with torch.no_grad():
        values = as_float64(model(windows, count.expand(len(windows)))).reshape(*y.shape[:-1], len(NISQA_SCALES))
    return {scale: values[..., i][()] for i, scale in enumerate(NISQA_SCALES)}


@lru_cache(maxsize=1)
def _load(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Network and settings of a checkpoint."""
    package = import_package("torchmetrics.functional.audio.nisqa", "nisqa")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        model = package._NISQADIM(checkpoint["args"])
        model.load_state_dict(checkpoint["model_state_dict"])
    except OSError as error:
        raise NldiffError(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise NldiffError(f"{path} does not hold the weights of NISQA") from error
    return model.eval(), checkpoint["args"]
