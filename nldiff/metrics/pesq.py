"""Perceptual evaluation of speech quality, through the package pesq (the ITU's own code)."""

from typing import Literal

from nldiff.errors import NldiffError
from nldiff.metrics.packages import at_rate, for_each, import_package
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_pair, refuse_silence


def pesq(
    reference: Signal, estimate: Signal, sample_rate: int, band: Literal["narrow", "wide"] | None = None
) -> FloatArray:
    """PESQ as a mean opinion score (MOS-LQO): ITU-T P.862.2 wide band, or P.862.1 narrow band.

    PESQ is made for speech of 8 to 30 s. Narrow and wide band are different scales: never compare them.

    Args:
        reference: clean speech, `[..., time]`, tensor or array.
        estimate: same shape.
        sample_rate: in Hz; rates other than 8 and 16 kHz are resampled to 16 kHz.
        band: None takes narrow band at 8 kHz and wide band otherwise; wide band resamples signals at 8 kHz.

    Returns:
        `[...]` (a numpy scalar for `[time]`), 0.999 to 4.5486 (narrow) or 4.6439 (wide), the value of equal signals.

    Raises:
        NldiffError: pesq is missing, shapes differ, a value is not finite, a reference is silent, or PESQ finds
            no speech or too few samples.
    """
    package = import_package("pesq", "metrics")
    x, y = as_float64_pair(reference, estimate)
    refuse_silence(x)
    band = band or ("narrow" if sample_rate == 8000 else "wide")
    rate = 8000 if band == "narrow" and sample_rate == 8000 else 16000
    mode = {"narrow": "nb", "wide": "wb"}[band]

    def score(x: FloatArray, y: FloatArray) -> float:
        try:
            return package.pesq(rate, x, y, mode)
        except package.PesqError as error:
            reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
            raise NldiffError(f"PESQ cannot compare the signals: {reason}") from error

    return for_each(score, at_rate(x, sample_rate, rate), at_rate(y, sample_rate, rate))
