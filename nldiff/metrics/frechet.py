"""Fréchet distance between two sets of recordings: compares the sets as a whole, without pairs."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.metrics.embeddings import log_mel_embedding
from nldiff.metrics.sdr import FloatArray, Signal, as_float64_signal

Embedding: TypeAlias = Callable[[FloatArray, int], FloatArray]
AudioSet: TypeAlias = Iterable[tuple[Signal, int]]


def frechet_audio_distance(reference_set: AudioSet, test_set: AudioSet, embedding: Embedding) -> float:
    """Fréchet audio distance (Kilgour et al. 2019): `frechet_distance` of the embeddings of two sets.

    Gaussians (mean, unbiased covariance) are fitted to all frames of all recordings of each set. Values depend on
    the embedding, and are biased upwards for small sets: name the embedding and compare only sets of equal size.

    Args:
        reference_set: pairs of a signal, `[time]` or `[channels, time]` (averaged over channels), and its rate in Hz.
        test_set: the same of the other set.
        embedding: called with a mono signal `[time]` and its rate, returns `[frames, dimensions]`; for example
            `VGGish` or `EnCodec` of `nldiff.metrics.embeddings`.

    Returns:
        The squared distance, 0 or more, in the embedding's units squared; 0 for equal sets.

    Raises:
        NldiffError: a set has fewer than two frames, a value is not finite, or the embedding refuses a signal.
    """
    sets = {"reference set": reference_set, "test set": test_set}
    return set_distance(*([_embedded(*item, embedding, name) for item in items] for name, items in sets.items()))


def log_mel_distance(reference_set: AudioSet, test_set: AudioSet) -> float:
    """`frechet_audio_distance` on `log_mel_embedding`: needs no weights, and is not comparable with an FAD.

    Args, Returns, Raises: as `frechet_audio_distance`; signals below 0.975 s are refused.
    """
    return frechet_audio_distance(reference_set, test_set, log_mel_embedding)


def set_distance(reference: Sequence[NDArray[np.floating]], test: Sequence[NDArray[np.floating]]) -> float:
    """Compute the `frechet_distance` between embeddings of two sets, `[frames, dimensions]` for each recording.

    Raises:
        NldiffError: a set has fewer than two frames, or a value is not finite.
    """
    moments: list[FloatArray] = []
    for name, recordings in (("reference set", reference), ("test set", test)):
        count = sum(map(len, recordings))
        if count < 2:
            raise NldiffError(f"{name} gives {count} frame(s) of embeddings: at least 2 needed for a covariance")
        frames = np.concatenate(recordings).astype(np.float64)
        moments += [frames.mean(axis=0), np.atleast_2d(np.cov(frames, rowvar=False))]
    return frechet_distance(*moments)


def frechet_distance(mu1: FloatArray, c1: FloatArray, mu2: FloatArray, c2: FloatArray) -> float:
    """Squared Fréchet (2-Wasserstein) distance between two Gaussians (Dowson and Landau 1982).

    `|mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))`. With C = A A^T the trace of the root is the sum of the singular
    values of `A1^T A2`: no root of a matrix product is needed, so covariances may be singular.

    Args:
        mu1: mean of the first, `[d]`.
        c1: its covariance, `[d, d]`, symmetric and positive semidefinite.
        mu2: mean of the second.
        c2: its covariance.

    Returns:
        The squared distance, 0 or more.

    Raises:
        NldiffError: shapes do not match, a value is not finite, or a covariance is not symmetric and positive
            semidefinite.
    """
    mu1, c1, mu2, c2 = (np.asarray(values, dtype=np.float64) for values in (mu1, c1, mu2, c2))
    if mu1.ndim != 1 or mu1.shape != mu2.shape or not c1.shape == c2.shape == mu1.shape * 2:
        shapes = ", ".join(str(list(values.shape)) for values in (mu1, c1, mu2, c2))
        raise NldiffError(f"means and covariances of shapes {shapes}: [d], [d, d], [d], [d, d] expected")
    if not all(np.isfinite(values).all() for values in (mu1, c1, mu2, c2)):
        raise NldiffError("means or covariances contain NaN or infinite values")
    overlap = np.linalg.svd(_factor(c1).T @ _factor(c2), compute_uv=False).sum()
    distance = np.sum((mu1 - mu2) ** 2) + np.trace(c1) + np.trace(c2) - 2 * overlap
    return max(float(distance), 0.0)


def _factor(covariance: FloatArray) -> FloatArray:
    """A with A A^T = covariance."""
    tolerance = 1e-8 * np.max(np.abs(covariance))
    if np.max(np.abs(covariance - covariance.T)) > tolerance:
        raise NldiffError("covariance is not symmetric")
    values, vectors = np.linalg.eigh(covariance)
    if values[0] < -tolerance:
        raise NldiffError(f"covariance has a negative eigenvalue, {values[0]:.3g}")
    return vectors * np.sqrt(np.maximum(values, 0))


def _embedded(signal: Signal, sample_rate: int, embedding: Embedding, name: str) -> FloatArray:
    samples = as_float64_signal(signal, name)
    return embedding(samples.mean(axis=0) if samples.ndim == 2 else samples, sample_rate)
