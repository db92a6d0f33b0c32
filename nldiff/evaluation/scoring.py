"""Scores of a cell."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from nldiff.errors import NldiffError
from nldiff.evaluation.clips import Case
from nldiff.metrics import METRICS, compute, delta_sdr, delta_sdr_clipped, lsd, rr_mse
from nldiff.metrics.embeddings import EnCodec, VGGish, log_mel_embedding
from nldiff.metrics.frechet import Embedding
from nldiff.metrics.rr_mse import Curve, input_gain
from nldiff.restoration.result import Restoration

CURVE_POINTS = 1000
"""Points of eq. 16 of the 2025 paper."""


def ramp_error(case: Case, restoration: Restoration, fit_scale: bool = True) -> float:
    """RR-MSE of the estimated curve, dB, for a clean signal of RMS `case.sigma`; see `nldiff.metrics.rr_mse`."""
    return rr_mse(_true_curve(case), _estimate(restoration), case.sigma, CURVE_POINTS, fit_scale)


def redistorted_lsd(case: Case, restoration: Restoration) -> float:
    """LSD between the observation and the clean signal under the estimated curve (section 3.1.3 of the 2025 paper).

    The clean signal has the polarity of the smaller RR-MSE.
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
"""Metrics that need more than two signals; the others are those of signals in `nldiff.metrics.METRICS`."""

CURVE_METRICS = frozenset({"rr_mse", "rr_mse_unfitted", "redistorted_lsd"})
"""Metrics of the curve, for methods that estimate one."""

EMBEDDINGS: dict[str, tuple[str, Callable[[str], Embedding]]] = {
    "log_mel": ("log-mel (not FAD)", lambda _: log_mel_embedding),
    "vggish": ("VGGish (FAD)", VGGish),
    "encodec": ("EnCodec (FAD)", EnCodec),
}
"""Name -> (label in tables, function from the path of the weights to the embedding)."""


def check_metrics(names: Iterable[str], embeddings: Iterable[str]) -> None:
    """Validate up front that all names are known.

    Raises:
        NldiffError: a name is unknown.
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
        case: the distorted clip.
        restoration: the result, at the scale at which it is judged.

    Returns:
        Name -> value of those that could be computed, and name -> reason of the others.
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
    """Make embeddings by name.

    Args:
        weights: key of `EMBEDDINGS` -> path of its weights; None without weights.

    Returns:
        Name -> embedding, and one line for each that cannot be made.
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


def _true_curve(case: Case) -> Curve:
    return lambda ramp: case.truth.static(ramp.double())


def _estimate(restoration: Restoration) -> Curve:
    return lambda ramp: np.asarray(restoration.curve(ramp.numpy()), dtype=np.float64)
