"""Scores of a cell, and distances between whole sets of cells."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.evaluation.case import Case
from nldiff.metrics import METRICS, compute, delta_sdr, delta_sdr_clipped, frechet_distance, lsd, rr_mse
from nldiff.metrics.embeddings import EnCodec, VGGish, log_mel_embedding
from nldiff.metrics.frechet import Embedding
from nldiff.metrics.rr_mse import Curve, input_gain
from nldiff.metrics.sdr import FloatArray
from nldiff.restoration.result import Restoration

CURVE_POINTS = 1000
"""Points of eq. 16 of the 2025 paper."""


def ramp_error(case: Case, restoration: Restoration, fit_scale: bool = True) -> float:
    """RR-MSE of the estimated curve in dB, see `nldiff.metrics.rr_mse`; both for a clean signal at `case.sigma`."""
    return rr_mse(_true_curve(case), _estimate(restoration), case.sigma, CURVE_POINTS, fit_scale)


def redistorted_lsd(case: Case, restoration: Restoration) -> float:
    """LSD between the observation and the clean signal under the estimated curve (section 3.1.3 of the 2025 paper).

    The polarity is the one that RR-MSE favours.
    """
    gain, _ = input_gain(_true_curve(case), _estimate(restoration), case.sigma, CURVE_POINTS)
    return float(lsd(case.observed, restoration.curve(case.clean * gain)))


CASE_METRICS: dict[str, Callable[[Case, Restoration], float]] = {
    "rr_mse": ramp_error,
    "rr_mse_unfitted": lambda case, result: ramp_error(case, result, fit_scale=False),
    "redistorted_lsd": redistorted_lsd,
    "delta_sdr": lambda case, result: float(delta_sdr(case.clean, case.observed, result.audio)),
    "delta_sdr_clipped": lambda case, result: float(
        delta_sdr_clipped(case.clean, case.observed, result.audio, case.observed != case.clean)
    ),
}
"""Metrics that need more than two signals; all others are those of signals in `nldiff.metrics.METRICS`."""

CURVE_METRICS = frozenset({"rr_mse", "rr_mse_unfitted", "redistorted_lsd"})
"""Those that judge the curve, which says something only of methods that estimate one."""

EMBEDDINGS: dict[str, tuple[str, Callable[[str], Embedding]]] = {
    "log_mel": ("log-mel (not FAD)", lambda _: log_mel_embedding),
    "vggish": ("VGGish (FAD)", VGGish),
    "encodec": ("EnCodec (FAD)", EnCodec),
}
"""Name -> what tables call it, and what makes the embedding from the path of its weights."""


def check_metrics(names: Iterable[str], embeddings: Iterable[str]) -> None:
    """Find out before the work whether all names are known.

    Raises:
        NldiffError: one is not.
    """
    known = [*CASE_METRICS, *(name for name, metric in METRICS.items() if metric.inputs == "signals")]
    for kind, given, table in (("metric", names, known), ("embedding", embeddings, list(EMBEDDINGS))):
        for name in given:
            if name not in table:
                raise NldiffError(f"unknown {kind} '{name}' (known: {', '.join(dict.fromkeys(table))})")


def score(names: Iterable[str], case: Case, restoration: Restoration) -> tuple[dict[str, float], dict[str, str]]:
    """Compute metrics by name.

    Args:
        names: keys of `CASE_METRICS` or of `METRICS`.
        case: the truth.
        restoration: the result, at the scale that it is to be judged at.

    Returns:
        Name to value, without those that could not be computed, and name to the reason for these.
    """
    values, problems = {}, {}
    for name in names:
        try:
            if name in CASE_METRICS:
                values[name] = CASE_METRICS[name](case, restoration)
            else:
                values |= compute([name], case.clean, restoration.audio, case.sample_rate)
        except NldiffError as error:
            problems[name] = str(error)
    return values, problems


def make_embeddings(weights: Mapping[str, str | None]) -> tuple[dict[str, Embedding], list[str]]:
    """Make what can be made of the embeddings by name.

    Args:
        weights: key of `EMBEDDINGS` -> path of the weights, None where there are none.

    Returns:
        Name to embedding, and a line for each that cannot be made.
    """
    made, problems = {}, []
    for name, path in weights.items():
        try:
            if path is None and name != "log_mel":
                raise NldiffError(f"no weights given (embeddings.{name}=PATH)")
            made[name] = EMBEDDINGS[name][1](path or "")
        except NldiffError as error:
            problems.append(f"{name}: {error}")
    return made, problems


def distance(reference: list[NDArray[np.float32]], test: list[NDArray[np.float32]]) -> float:
    """Fréchet distance between the embeddings, `[frames, dimensions]` each, of two sets of clips.

    Raises:
        NldiffError: a set has fewer than two frames.
    """
    moments: list[FloatArray] = []
    for frames in (np.concatenate(part).astype(np.float64) for part in (reference, test)):
        if len(frames) < 2:
            raise NldiffError(f"{len(frames)} frame of embeddings: at least 2 needed for a covariance")
        moments += [frames.mean(axis=0), np.atleast_2d(np.cov(frames, rowvar=False))]
    return frechet_distance(*moments)


def _true_curve(case: Case) -> Curve:
    return lambda ramp: case.truth.static(ramp.double())


def _estimate(restoration: Restoration) -> Curve:
    return lambda ramp: np.asarray(restoration.curve(ramp.numpy()), dtype=np.float64)
