"""Choice of the prior that explains a recording best.

Every prior denoises the same few seconds of the recording after noise was added. The smaller the error, the more the
prior knows of such signals. This compares likelihoods, since the log-likelihood is an integral of the denoising error
over the noise levels (Guo, Shamai and Verdú 2005). The comparison is fair between rates: the noise has the same density
for all priors, and the error counts only within the band of the lowest rate. The error is averaged in dB over short
frames, so that a loud vowel, which is much like a note, does not outweigh the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nldiff import sound
from nldiff.priors.saved import SHIPPED, Prior, load_prior
from nldiff.sound.chunks import chunk_starts
from nldiff.sound.histogram import histogram_match
from nldiff.sound.recording import Recording

_EXCERPT_SECONDS, _OVERLAP_SECONDS = 4.0, 1.0
# RMS of the noise within the compared band, as fractions of the signal's RMS.
_NOISE = (0.3, 3.0)
# Fraction of the compared band that counts: resampling filters fall in the rest.
_PASS_BAND = 0.9
_FRAME_SECONDS = 0.064
# Least power of a frame that counts, as a fraction of the loudest frame's power.
_ACTIVE = 1e-3


@dataclass(frozen=True)
class Choice:
    """The prior for a recording.

    Attributes:
        prior: the candidate with the lowest score.
        scores: name of a candidate -> its `denoising_error_db`; empty if there was only one candidate.
    """

    prior: Prior
    scores: dict[str, float]


def load_candidates(name_or_path: str | Path, device: torch.device) -> list[Prior]:
    """Load all shipped priors for "auto", otherwise the one that is named.

    Raises:
        NldiffError: unknown name, missing, corrupted or foreign file.
    """
    names = SHIPPED if str(name_or_path) == "auto" else (name_or_path,)
    return [load_prior(name, device) for name in names]


def choose_prior(recording: Recording, candidates: Sequence[Prior]) -> Choice:
    """Choose the candidate that explains the loudest seconds of the recording best; a single one is taken at once.

    Args:
        recording: clean or distorted; histogram matching first gives its samples the distribution of clean audio.
        candidates: at least one prior; all have different names.
    """
    if len(candidates) == 1:
        return Choice(candidates[0], {})
    excerpt = _loudest(recording)
    clean = histogram_match(excerpt, 1.0)(excerpt)
    band = min(recording.sample_rate, *(prior.sample_rate for prior in candidates)) / 2
    scores = {prior.name: denoising_error_db(prior, clean, recording.sample_rate, band) for prior in candidates}
    return Choice(min(candidates, key=lambda prior: scores[prior.name]), scores)


@torch.no_grad()
def denoising_error_db(prior: Prior, clean: np.ndarray, sample_rate: int, band: float) -> float:
    """Error of a prior that denoises a signal, dB relative to the signal, mean over frames and two noise levels.

    The noise within the band has 0.3 and 3 times the RMS of the signal.

    Args:
        prior: the prior.
        clean: signal without noise, [1, time], any level, not silent.
        sample_rate: rate of `clean`, Hz.
        band: upper limit of the frequencies that count, Hz, at most half of either rate.
    """
    resampled = sound.resample(clean.astype(np.float32), sample_rate, prior.sample_rate)
    x = torch.from_numpy(resampled * np.float32(prior.sigma_data / sound.rms(resampled)))
    window = torch.hann_window(round(_FRAME_SECONDS * prior.sample_rate))
    bins = round(_PASS_BAND * band * _FRAME_SECONDS)

    def power(signal: torch.Tensor) -> torch.Tensor:
        """Power of every frame within the band."""
        n = len(window)
        spectrum = torch.stft(signal[0], n, n // 2, window=window, pad_mode="constant", return_complex=True)
        return spectrum[:bins].abs().square().sum(0).clamp(min=1e-20)

    signal_power = power(x)
    active = signal_power > _ACTIVE * signal_power.max()
    device = next(prior.denoiser.parameters()).device
    errors = []
    for ratio in _NOISE:
        sigma = ratio * prior.sigma_data * (prior.sample_rate / 2 / band) ** 0.5
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        denoised = prior.denoiser((x + sigma * noise).to(device), torch.full((1,), sigma, device=device)).cpu()
        errors.append(10 * torch.log10(power(denoised - x) / signal_power)[active].mean())
    return float(torch.stack(errors).mean())


def _loudest(recording: Recording) -> np.ndarray:
    """Loudest channel of the loudest few seconds, [1, time]."""
    starts, length = chunk_starts(recording, _EXCERPT_SECONDS, _OVERLAP_SECONDS)
    # Variances, because a constant is not loud.
    powers = [np.var(recording.read(start, length), axis=1, dtype=np.float64) for start in starts]
    chunk, channel = np.unravel_index(np.argmax(powers), np.shape(powers))
    return recording.read(starts[chunk], length)[[channel]]
