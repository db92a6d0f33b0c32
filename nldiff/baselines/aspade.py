"""Declipping by sparsity, without training: A-SPADE and S-SPADE.

Every windowed frame is replaced by one that agrees with the observation and is close to a spectrum of few lines. To
agree means to be equal at reliable samples and at or beyond the clipping level at clipped ones. The number of lines
grows until both descriptions meet.

Kitić, Bertin and Gribonval, "Sparsity and cosparsity for audio declipping: a flexible non-convex approach" (2015)
introduced both variants. The S-SPADE here is the form of Záviška, Rajmic, Mokrý and Průša, "A proper version of
synthesis-based sparse audio declipper" (2019). Frames, stopping rules and constants follow Záviška, Rajmic, Ozerov and
Rencker, "A survey and an extensive evaluation of popular audio declipping methods" (2021).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nldiff.baselines.clipping import check_audio, detect_clipping
from nldiff.errors import NldiffError, require

Variant = Literal["analysis", "synthesis"]

# Samples of all frames in one group: enough to keep the overhead of calls small, few enough to stay in the cache.
_GROUP = 2**17


@dataclass(frozen=True)
class SpadeSettings:
    """Frames, transform and relaxation of SPADE.

    Args:
        window: length of the Hann window, samples, even.
        hop: step between frames, samples; a proper divisor of `window`.
        redundancy: length of the transform over that of the window, at least 1.
        s: number of spectral lines (conjugate pairs) that a frame may have at first, and that every relaxation adds,
            at least 1.
        r: iterations between relaxations, at least 1.
        eps: a frame is finished when its two descriptions are this close in Euclidean norm, greater than 0. The number
            is absolute and meant for signals with peaks of about 1.

    Raises:
        NldiffError: an option is out of range.
    """

    window: int
    hop: int
    redundancy: int = 2
    s: int = 1
    r: int = 1
    eps: float = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        if self.window < 2 or self.window % 2:
            raise NldiffError(f"SPADE option window={self.window}: must be even and at least 2")
        if not 0 < self.hop < self.window or self.window % self.hop:
            raise NldiffError(f"SPADE option hop={self.hop}: must divide window={self.window} and be smaller")
        require(self, "spade", ("redundancy", "s", "r"), least=1)
        require(self, "spade", ("eps",), above=0)

    @property
    def bins(self) -> int:
        """Lines of the spectrum of a real frame, DC and Nyquist included."""
        return self.redundancy * self.window // 2 + 1

    @property
    def max_iterations(self) -> int:
        """Upper limit of the iterations: all lines are allowed then."""
        return math.ceil(self.bins * self.r / self.s)


PRESETS: dict[str, SpadeSettings] = {
    "survey": SpadeSettings(window=8192, hop=2048, r=2),
    "short": SpadeSettings(window=1024, hop=256, r=1),
}
"""Settings of the literature for 44.1 kHz: "survey" (2021) and "short" (2019), which takes a fraction of the time."""


def aspade(
    y: Tensor,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    settings: SpadeSettings = PRESETS["short"],
    variant: Variant = "analysis",
    consistent: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Restore hard-clipped audio with A-SPADE ("analysis") or S-SPADE ("synthesis").

    Frames without a clipped sample stay as they are. The work is done on the CPU. Time grows with the number and the
    loudness of frames that contain clipped samples, memory only with the length of the signal.

    Args:
        y: audio `[batch, time]`, time >= 1. `settings.eps` is absolute: the literature has clean signals with a peak of
            about 1. Quieter audio is restored in fewer iterations and less well.
        low: lower clipping level; samples at or below it count as clipped. One number, `[batch]`, or None to detect it
            (`detect_clipping`); minus infinity if nothing is clipped below.
        high: upper clipping level, likewise; infinity if nothing is clipped above.
        settings: window, transform and stopping rule.
        variant: "analysis" or "synthesis".
        consistent: True gives a signal that equals y at every reliable sample and is at or beyond the level at every
            clipped one. False gives the sparse signals, which do so only approximately.
        dtype: type of the computation and the result, torch.float32 or torch.float64.

    Returns:
        Audio `[batch, time]`; y itself where nothing is clipped.

    Raises:
        NldiffError: y is not finite floating-point audio of that shape, or an option is out of range.
    """
    check_audio(y)
    if variant not in ("analysis", "synthesis"):
        raise NldiffError(f"SPADE variant {variant!r}: must be 'analysis' or 'synthesis'")
    if dtype not in (torch.float32, torch.float64):
        raise NldiffError(f"SPADE dtype {dtype}: must be torch.float32 or torch.float64")
    observed, at_low, at_high = _split(y.detach().cpu(), low, high)
    if not (at_low.any() or at_high.any()):
        return y.detach().to(dtype)
    return _restore_signals(observed.to(dtype), at_low, at_high, settings, variant, consistent).to(y.device)


def _restore_signals(
    observed: Tensor, at_low: Tensor, at_high: Tensor, settings: SpadeSettings, variant: Variant, consistent: bool
) -> Tensor:
    """Restore the frames that contain clipped samples, and overlap and add their changes; all are `[B, T]`."""
    window = torch.hann_window(settings.window, dtype=observed.dtype)
    overlap = settings.window // settings.hop
    synthesis_window = window / window.square().view(overlap, settings.hop).sum(0).repeat(overlap)

    # Every sample then lies in `overlap` frames. The zeros beyond both ends count as reliable.
    samples, margin = observed.shape[1], settings.window - settings.hop
    observed, at_low, at_high = (F.pad(v, (margin, settings.window)) for v in (observed, at_low, at_high))
    views = [v.unfold(1, settings.window, settings.hop) for v in (observed, at_low, at_high)]
    clipped_frames = (views[1].any(-1) | views[2].any(-1)).nonzero()
    restored = observed.clone()
    offsets = torch.arange(settings.window)
    for group in clipped_frames.split(max(1, _GROUP // settings.window)):
        item, frame = group.unbind(1)
        frames, low_frames, high_frames = (v[item, frame] for v in views)
        frames *= window
        lower = frames.masked_fill(low_frames, -math.inf)
        upper = frames.masked_fill(high_frames, math.inf)
        change = (_restore_frames(frames, lower, upper, settings, variant, consistent) - frames) * synthesis_window
        start = item * observed.shape[1] + frame * settings.hop
        restored.view(-1).index_add_(0, (start[:, None] + offsets).flatten(), change.flatten())
    return restored[:, margin : margin + samples]


def _split(y: Tensor, low: float | Tensor | None, high: float | Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Limit y to the clipping levels, and find where it is clipped below and above; all are `[B, T]`."""
    detected = detect_clipping(y) if low is None or high is None else (y, y)
    levels = []
    for name, given, found in (("low", low, detected[0]), ("high", high, detected[1])):
        # The level takes the type of the audio, so that 0.7 finds samples that were rounded to float32.
        level = found if given is None else torch.as_tensor(given, dtype=y.dtype, device=y.device)
        if level.shape not in ((), (len(y),)) or level.isnan().any():
            raise NldiffError(f"clipping level {name}={given}: must be one number or one for each of {len(y)} items")
        levels.append(level.expand(len(y))[:, None])
    if not (levels[0] < levels[1]).all():
        raise NldiffError(f"clipping levels low={low}, high={high}: low must be smaller than high")
    return y.clamp(*levels), y <= levels[0], y >= levels[1]


def _restore_frames(
    frames: Tensor, lower: Tensor, upper: Tensor, settings: SpadeSettings, variant: Variant, consistent: bool
) -> Tensor:
    """Run SPADE on windowed frames `[N, window]` with bounds of the samples; returns frames like them.

    Both variants are one recursion. With `P` the projection onto the bounds, `A` the transform (`A* A = I`), `H`
    hard thresholding, and started from `q = A y` or `q = y`:

        q <- q + t - p,   analysis:   p = A P(A* q),   t = H(2 p - q)         (spectra)
                          synthesis:  p = P(q),        t = A* H(A (2 p - q))  (signals)

    The scaled dual variable u of the papers is `p - q` for analysis and `q - p` for synthesis. A frame is finished when
    `|t - p| <= eps`; if that never happens, the iteration with the smallest `|t - p|` counts.
    """
    analysis = variant == "analysis"
    length = settings.redundancy * settings.window

    def spectrum(x: Tensor) -> Tensor:
        return torch.fft.rfft(x, n=length, norm="ortho")

    def signal(z: Tensor) -> Tensor:
        return torch.fft.irfft(z, n=length, norm="ortho")[:, : settings.window]

    def finish(kept: Tensor) -> Tensor:
        return signal(kept) if kept.is_complex() else kept

    result = torch.empty_like(frames)
    index = torch.arange(len(frames))
    x, q = frames, spectrum(frames) if analysis else frames.clone()
    best = x if consistent else q
    smallest = frames.new_full((len(frames),), math.inf)
    lines = settings.s
    for iteration in range(1, settings.max_iterations + 1):
        p = spectrum(x) if analysis else x
        t = _keep_largest(2 * p - q, lines) if analysis else signal(_keep_largest(spectrum(2 * p - q), lines))
        e = t - p
        distance = _spectrum_norm(e) if analysis else torch.linalg.vector_norm(e, dim=1)

        better = (distance <= smallest) & (smallest > settings.eps)
        best = torch.where(better[:, None], x if consistent else t, best)
        smallest = torch.where(better, distance, smallest)
        q += e
        active = smallest > settings.eps
        # Finished frames stay in the group until they are many, because removing them copies all others.
        if active.sum() <= 0.875 * len(active):
            result[index[~active]] = finish(best[~active])
            index, q, best, smallest, lower, upper = (v[active] for v in (index, q, best, smallest, lower, upper))
            if len(index) == 0:
                return result
        x = torch.clamp(signal(q) if analysis else q, lower, upper)
        # All frames started together and have the same number of lines.
        if (iteration + 1) % settings.r == 0:
            lines += settings.s
    result[index] = finish(best)
    return result


def _keep_largest(z: Tensor, lines: int) -> Tensor:
    """Hard thresholding `H`: zero all but the largest `lines` values of every half spectrum `[N, bins]`, in place.

    DC counts with half its magnitude, as in the published code. Values equal to the smallest kept value stay too.
    """
    bins = z.shape[1]
    if lines >= bins:
        return z
    power = (z * z.conj()).real.contiguous()
    power[:, 0] /= 4
    # Partial sorting in numpy is several times as fast as torch.kthvalue or torch.topk.
    place = bins - lines
    threshold = torch.from_numpy(np.partition(power.numpy(), place, axis=1)[:, place, None])
    return z.mul_(power >= threshold)


def _spectrum_norm(z: Tensor) -> Tensor:
    """Norm of whole spectra, from their halves `[N, bins]`; DC and Nyquist have no mirror image."""
    square = torch.view_as_real(z).flatten(1).square().sum(1) * 2
    ends = torch.view_as_real(z[:, :: z.shape[1] - 1]).flatten(1).square().sum(1)
    return (square - ends).sqrt()
