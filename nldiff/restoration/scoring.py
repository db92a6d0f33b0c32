"""Scores of a restoration against the truth, for clean files that were distorted on purpose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.metrics import lsd, rr_mse, si_sdr
from nldiff.operators import Operator

# Level at which the papers state the ramp-response error.
_RAMP_RMS = 0.06


def scores(
    clean: np.ndarray,
    observed: np.ndarray,
    restored: np.ndarray,
    truth: Operator,
    curve: Callable[[np.ndarray], np.ndarray],
) -> dict[str, dict[str, float]]:
    """SI-SDR (dB), LSD and RR-MSE (dB) of the observation ("before") and of the restoration ("after").

    Signals are [channels, time]; scores of channels are averaged. RR-MSE is stated at the papers' level, with clean and
    restored signal brought to RMS 0.06, after a fit of the input scale and ("unfitted") without; "before" takes the
    identity as the curve.
    """

    def level(signal: np.ndarray) -> float:
        return sound.rms(signal) / _RAMP_RMS

    def true_curve(r: torch.Tensor) -> torch.Tensor:
        return truth.portrait(r * level(clean)).curve[0] / level(clean)

    def estimate(signal: np.ndarray, of: Callable[[np.ndarray], np.ndarray]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda r: torch.from_numpy(np.asarray(of(r.numpy() * level(signal)))) / level(clean)

    result = {}
    for when, signal, of in (("before", observed, np.asarray), ("after", restored, curve)):
        result[when] = {
            "si_sdr_db": float(np.mean(si_sdr(clean, signal))),
            "lsd": float(np.mean(lsd(clean, signal))),
            "rr_mse_db": rr_mse(true_curve, estimate(signal, of), _RAMP_RMS, fit_scale=True),
            "rr_mse_unfitted_db": rr_mse(true_curve, estimate(signal, of), _RAMP_RMS),
        }
    return result


def check_scores(source: Path, clean: np.ndarray, distorted: np.ndarray) -> None:
    """Validate up front that the result can be scored.

    Raises:
        NldiffError: it cannot.
    """
    try:
        si_sdr(clean, distorted)
        lsd(clean, distorted)
    except NldiffError as error:
        raise NldiffError(f"{source} cannot be scored: {error}") from error
