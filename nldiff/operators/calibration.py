"""Levels of known distortions: the input SDR, calibration to it, and the level of the clean signal."""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators.known import DISTORTIONS, Distortion, known_spec
from nldiff.operators.operator import Operator


def input_sdr(x: Tensor, y: Tensor) -> float:
    """Input signal-to-distortion ratio `20 log10(‖x‖ / ‖x - y‖)`, dB, over all samples; infinite if y = x."""
    error = torch.linalg.vector_norm((x - y).double()).item()
    signal = torch.linalg.vector_norm(x.double()).item()
    if error == 0:
        return math.inf
    return 20 * math.log10(signal / error) if signal > 0 else -math.inf


def calibrate(name: str, x: Tensor, sdr: float, **params: float) -> Distortion:
    """Find the distortion that brings the signal to an input SDR.

    Args:
        name: a distortion with a calibrated parameter.
        x: the clean signal, any shape; the SDR is taken over all its samples.
        sdr: the target, dB; met within 0.001 dB.
        params: the distortion's other parameters; the SDR is that of the mixture if `mix` is one of them.

    Raises:
        NldiffError: if the distortion has no calibrated parameter, it is given in `params`, the signal is
            silent or not finite, or no value of the parameter gives this SDR.
    """
    key = calibrated_parameter(name, sdr, params)
    x = x.detach().double().cpu()
    peak = x.abs().max().item() if x.numel() else 0.0
    if not 0 < peak < math.inf:
        raise NldiffError(f"distortion '{name}': cannot be calibrated to a signal that is silent or not finite")

    def excess(value: float) -> float:
        # no distortion at all is an infinite SDR; the root finder needs a finite one
        return min(input_sdr(x, Distortion(name, {**params, key: value})(x)), 1000.0) - sdr

    worst, best = DISTORTIONS[name].bracket(peak)
    at_worst, at_best = excess(worst), excess(best)
    value = brentq(excess, worst, best, xtol=1e-300, maxiter=1000) if at_worst * at_best <= 0 else worst
    if abs(excess(value)) > 1e-3:
        raise NldiffError(
            f"distortion '{name}': an input SDR of {sdr:g} dB cannot be reached with this signal "
            f"({key} from {worst:.3g} to {best:.3g} gives {at_worst + sdr:.2f} to {at_best + sdr:.2f} dB)"
        )
    return Distortion(name, {**params, key: value})


def calibrated_parameter(name: str, sdr: float, params: Mapping[str, float]) -> str:
    """Name of the parameter that an input SDR determines.

    Raises:
        NldiffError: if there is none, it is given in `params`, or the SDR is not finite.
    """
    key = known_spec(name).calibrated
    if key is None:
        able = ", ".join(known for known, spec in DISTORTIONS.items() if spec.calibrated)
        raise NldiffError(f"distortion '{name}' cannot be calibrated to an input SDR: {able} can")
    if not math.isfinite(sdr):
        raise NldiffError(f"distortion '{name}': sdr={sdr} is not a finite number of dB")
    if key in params:
        raise NldiffError(f"distortion '{name}': give either sdr or {key}, not both")
    return key


def estimate_input_rms(operator: Operator, rms_y: float) -> float:
    """Estimate the level of the clean signal from that of the distorted one, for a known operator.

    Samples of music and speech are taken to follow a Laplace distribution, represented by its quantiles; the
    result is the smallest RMS whose quantiles have the RMS `rms_y` after the operator's static curve.

    Args:
        operator: the known operator.
        rms_y: RMS of the distorted signal, greater than 0.

    Returns:
        RMS of the clean signal, searched from 0.001 to 1000 times `rms_y`; `rms_y` itself if none in that
        range fits, for example because a clipper never gets that loud.

    Raises:
        NldiffError: if `rms_y` is not positive and finite.
    """
    if not 0 < rms_y < math.inf:
        raise NldiffError(f"RMS of the distorted signal is {rms_y}: must be positive and finite")
    count = 4096
    half = -torch.log((torch.arange(count, dtype=torch.float64) + 0.5) / count)
    quantiles = torch.cat([-half, half])[None]
    quantiles /= quantiles.square().mean().sqrt()

    def excess(rms_x: float) -> float:
        return operator.static(rms_x * quantiles).square().mean().sqrt().item() - rms_y

    candidates = rms_y * np.geomspace(1e-3, 1e3, 121)
    previous = excess(candidates[0])
    for low, high in pairwise(candidates):
        current = excess(high)
        if previous * current <= 0:
            return float(brentq(excess, low, high))
        previous = current
    return rms_y
