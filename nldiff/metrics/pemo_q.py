"""PEMO-Q: similarity of two signals as an auditory model hears them, and an objective difference grade.

R. Huber and B. Kollmeier, "PEMO-Q - A New Method for Objective Audio Quality Assessment Using a Model of Auditory
Perception", IEEE Trans. Audio, Speech and Language Processing 14(6), 2006, with the auditory model of T. Dau,
B. Kollmeier and A. Kohlrausch, J. Acoust. Soc. Am. 102(5), 1997. The authors' program is closed, so this is a
reconstruction from descriptions: grades of other programs may differ.

The model, with its documented constants:
1. Full scale (amplitude 1) is 100 dB SPL; the estimate is brought to the RMS of the reference.
2. Gammatone filters one equivalent rectangular bandwidth apart, one of them at 1 kHz, from 235 Hz to 14.5 kHz: 33.
3. Half-wave rectification and a first-order low-pass filter at 1 kHz: what hair cells pass on.
4. An absolute threshold 100 dB below full scale, then five adaptation loops with time constants of 5, 50, 129, 253
   and 500 ms whose overshoot is limited to 10 times the steady state; steady inputs of 0 to 100 dB SPL come out
   roughly logarithmic, from 0 to 100 model units.
5. Eight modulation filters at 0, 5, 10, 16.7, 27.8, 46.3, 77.2 and 129 Hz with bandwidths of 5 Hz up to 10 Hz and
   half the centre frequency above; above 10 Hz their envelope. This is the internal representation, at 800 Hz.
6. Assimilation: where the estimate's representation is the smaller by magnitude, it is moved towards the
   reference's, because missing parts disturb less than added ones.
7. PSM: the linear correlation of the two representations for each modulation filter, weighted by the energy of the
   estimate's. PSM_t: the same for frames of 10 ms, and of these values the 5 % quantile weighted by activity, the
   mean of the estimate's representation over bands and filters.
8. ODG: a fixed function of PSM_t.

A choice of this program: the adaptation loops run at a quarter of 44.1 kHz, with a quarter of the work. This changes
the 70 grades below by 0.004 (root mean square) and at most 0.022. Fitted to those grades: `ASSIMILATION` (documented:
0.5) and `ACTIVITY_WINDOW`, the smoothing of the activity.

Agreement: for the ten hard-clipped excerpts of Záviška, Rajmic, Ozerov and Rencker, "A Survey and an Extensive
Evaluation of Popular Audio Declipping Methods", 2021, at seven input SDRs each, the grades differ from the published
ones, which the authors' program gave, by 0.089 (root mean square), 0.33 at most (violin at 20 dB) and -0.011 on
average. With the documented assimilation of 0.5 the root mean square is 0.16.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.signal import lfilter, resample_poly

from nldiff.errors import NldiffError
from nldiff.metrics.gammatone import erb_frequency, erb_number, gammatone_bands
from nldiff.metrics.packages import at_rate, for_each
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_pair, refuse_silence
from nldiff.sound import rms

RATE = 44100  # Hz
LOOP_RATE = RATE // 4
MODULATION_RATE = 800

CENTRES = erb_frequency(erb_number(1000.0) + np.arange(-9, 24))  # Hz
LOW_PASS = 1000.0  # Hz

THRESHOLD = 1e-5  # amplitude: 100 dB below full scale
TIME_CONSTANTS = np.array([0.005, 0.05, 0.129, 0.253, 0.5])  # s
OVERSHOOT = 10.0  # largest output of a loop relative to its steady state

MODULATION_CENTRES = np.concatenate([[0.0, 5.0], 10 * (5 / 3) ** np.arange(6)])  # Hz
MODULATION_BANDWIDTHS = np.concatenate([[5.0, 5.0], 5 * (5 / 3) ** np.arange(6)])  # Hz

ASSIMILATION = 0.15  # share of the reference; fitted
FRAME = 8  # samples at MODULATION_RATE: 10 ms
ACTIVITY_WINDOW = 20  # frames: 0.2 s; fitted
QUANTILE = 0.05


@dataclass(frozen=True)
class PemoQ:
    """Result of `pemo_q`.

    Attributes:
        psm: perceptual similarity measure of the whole signals, -1 to 1 (equal).
        psm_t: 5 % quantile of the similarity over time, -1 to 1 (equal).
        odg: objective difference grade from psm_t, -4 (very annoying) to 0 (imperceptible).
    """

    psm: float
    psm_t: float
    odg: float


def pemo_q(reference: Signal, estimate: Signal, sample_rate: int) -> PemoQ:
    """Compare two signals with PEMO-Q (see the module for the model and its agreement with published grades).

    The absolute level matters, since it decides what is audible: a full-scale amplitude of 1 means 100 dB SPL.
    A second of audio takes about 30 MB of memory and a third of a second on one core.

    Args:
        reference: clean signal, `[time]`, tensor or array, full scale -1 to 1.
        estimate: same shape; its level does not matter.
        sample_rate: Hz; signals at other rates than 44.1 kHz are resampled.

    Raises:
        NldiffError: shapes differ or are not `[time]`, a value is not finite, one of the signals is silent
            or they are shorter than 10 ms.
    """
    x, y = as_float64_pair(reference, estimate)
    refuse_silence(x)
    if x.ndim != 1:
        raise NldiffError(f"signals of shape {list(x.shape)}: PEMO-Q compares signals [time]")
    if len(x) < sample_rate / 100:
        raise NldiffError(f"{len(x)} samples are shorter than one frame of PEMO-Q (10 ms)")
    if not np.any(y):
        raise NldiffError("estimate is silent: it cannot be brought to the level of the reference")
    signals = np.stack([x, y * (rms(x) / rms(y))])
    x, y = internal_representation(at_rate(signals, sample_rate, RATE))
    y = assimilate(x, y)
    psm = float(similarity(x.reshape(len(x), -1), y.reshape(len(y), -1)))
    psm_t = similarity_quantile(x, y)
    return PemoQ(psm, psm_t, difference_grade(psm_t))


def pemo_q_odg(reference: Signal, estimate: Signal, sample_rate: int) -> FloatArray:
    """Objective difference grade of PEMO-Q.

    Args:
        reference: clean signal, `[..., time]`, tensor or array, full scale -1 to 1.
        estimate: same shape.
        sample_rate: Hz.

    Returns:
        `[...]` (a numpy scalar for `[time]`), -4 (very annoying) to 0 (imperceptible, or equal).

    Raises:
        NldiffError: as `pemo_q`.
    """
    return for_each(lambda x, y: pemo_q(x, y, sample_rate).odg, *as_float64_pair(reference, estimate))


def internal_representation(signals: FloatArray) -> FloatArray:
    """Turn signals at 44.1 kHz, `[..., time]`, into `[..., filters, bands, time]` at 800 Hz, in model units."""
    adapted = adaptation(hair_cells(signals), LOOP_RATE)
    return modulation_bands(resample_poly(adapted, 32, 441, axis=-1))


def hair_cells(signals: FloatArray) -> FloatArray:
    """Half-wave rectified and low-pass filtered gammatone bands, `[..., time]` to `[..., bands, time / 4]`."""
    decay = np.exp(-2 * np.pi * LOW_PASS / RATE)
    bands = [
        resample_poly(lfilter([1 - decay], [1, -decay], np.maximum(band, 0)), LOOP_RATE, RATE, axis=-1)
        for band in gammatone_bands(signals, CENTRES, RATE)
    ]
    return np.stack(bands, axis=-2)


def adaptation(envelopes: FloatArray, sample_rate: int) -> FloatArray:
    """Five adaptation loops in series, each of which divides its input by its own low-pass filtered output.

    A steady input u comes out of one loop as the root of u, of five as u^(1/32): changes pass far more easily
    than levels. Outputs v of a loop above 1 are limited to `1 + m tanh((v - 1) / m)`, where
    `m = OVERSHOOT (1 - s^2) - 1` for a loop whose output at the threshold is s.

    Args:
        envelopes: `[..., time]`, 1 is full scale; smaller values than `THRESHOLD` count as it.
        sample_rate: Hz.

    Returns:
        Model units, `[..., time]`: 0 for a long time at the threshold, 100 for one at full scale.
    """
    loops = len(TIME_CONSTANTS)
    shape = envelopes.shape
    x = np.maximum(envelopes, THRESHOLD).reshape(-1, shape[-1]).T
    columns = x.shape[1]
    rest = np.repeat(THRESHOLD ** (0.5 ** np.arange(loops + 1))[:, None], columns, axis=1)
    lowest = rest[1:]
    gain = np.repeat(1 - np.exp(-1 / (TIME_CONSTANTS * sample_rate))[:, None], columns, axis=1)
    margin = OVERSHOOT * (1 - lowest**2) - 1

    # All loops work at once on one array, each of them a sample behind the one before it: at step n, loop k
    # handles sample n - k. `stages` holds the input and below it the output of each loop; the input and output
    # rows of a step must not overlap, hence two of them that swap. Loops that have no sample yet are at rest.
    x = np.concatenate([x, np.full((loops - 1, columns), THRESHOLD)])
    stages, following = rest.copy(), rest.copy()
    divisor, work = lowest.copy(), np.empty_like(lowest)
    adapted = np.empty_like(x)
    for n, sample in enumerate(x):
        stages[0] = sample
        v = following[1:]
        np.divide(stages[:-1], divisor, out=v)
        np.subtract(v, 1, out=work)
        np.maximum(work, 0, out=work)
        np.subtract(v, work, out=v)
        np.divide(work, margin, out=work)
        np.tanh(work, out=work)
        np.multiply(work, margin, out=work)
        np.add(v, work, out=v)
        np.subtract(v, divisor, out=work)
        np.multiply(work, gain, out=work)
        np.add(divisor, work, out=divisor)
        np.maximum(divisor, lowest, out=divisor)
        adapted[n] = v[-1]
        stages, following = following, stages
    units = 100 * (adapted[loops - 1 :] - rest[-1]) / (1 - rest[-1])
    return units.T.reshape(shape)


def modulation_bands(adapted: FloatArray) -> FloatArray:
    """Split bands at 800 Hz by modulation frequency, `[..., bands, time]` to `[..., filters, bands, time]`."""
    outputs = []
    for centre, bandwidth in zip(MODULATION_CENTRES, MODULATION_BANDWIDTHS, strict=True):
        decay = np.exp(-np.pi * bandwidth / MODULATION_RATE)
        pole = decay * np.exp(2j * np.pi * centre / MODULATION_RATE)
        output = lfilter([1 - decay], [1, -pole], adapted, axis=-1)
        outputs.append(np.abs(output) if centre > 10 else output.real)
    return np.stack(outputs, axis=-3)


def assimilate(x: FloatArray, y: FloatArray) -> FloatArray:
    """Move the estimate's representation y towards the reference's, x, where it is the smaller by magnitude."""
    return np.where(np.abs(y) < np.abs(x), y + ASSIMILATION * (x - y), y)


def similarity(x: FloatArray, y: FloatArray) -> FloatArray:
    """Correlation over the values, averaged over the filters with the energy of y as weight.

    Args:
        x: `[filters, ..., values]`.
        y: same shape.

    Returns:
        `[...]`, -1 to 1. Values without variation count as 1 where x equals y, otherwise as 0.
    """
    # The smallest number avoids 0/0 in silent frames.
    weights = np.sum(y**2, axis=-1) + np.finfo(np.float64).tiny
    equal = np.all(x == y, axis=-1)
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    norm = np.sqrt(np.sum(x**2, axis=-1) * np.sum(y**2, axis=-1))
    r = np.where(norm > 0, np.sum(x * y, axis=-1) / np.where(norm > 0, norm, 1), equal)
    return np.sum(weights * r, axis=0) / np.sum(weights, axis=0)


def similarity_quantile(x: FloatArray, y: FloatArray) -> float:
    """PSM_t of two internal representations, `[filters, bands, time]`: frames with 5 % of the activity are worse."""
    frames = x.shape[-1] // FRAME

    def split(z: FloatArray) -> FloatArray:
        framed = z[..., : frames * FRAME].reshape(*z.shape[:2], frames, FRAME)
        return np.moveaxis(framed, 2, 1).reshape(len(z), frames, -1)

    x, y = split(x), split(y)
    quality = similarity(x, y)
    activity = np.maximum(uniform_filter1d(y.mean(axis=(0, 2)), ACTIVITY_WINDOW, mode="constant"), 0)
    order = np.argsort(quality)
    share = np.cumsum(activity[order])
    return float(quality[order[np.argmax(share >= QUANTILE * share[-1])]])


def difference_grade(psm_t: float) -> float:
    """Objective difference grade, -4 to 0, for a similarity PSM_t: a hyperbola up to 0.864, a line above."""
    grade = 16.4 * psm_t - 16.4 if psm_t >= 0.864 else -0.22 / (psm_t - 0.98) - 4.13
    return min(max(grade, -4.0), 0.0)
