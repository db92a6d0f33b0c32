"""The sparsest signal of a feasible set.

A sample from the prior explains the observation to a few per cent, and a weak prior makes loud passages too quiet. Once
the operator is known, every observed value says where the clean sample lies: at a point where the curve rises, above a
clipping level. Spectra of music and speech are sparse, and shrinking small coefficients while keeping every sample in
its set carries what the reliable samples say into the distorted ones. The shrinkage is the persistent empirical Wiener
of Siedenburg, Kowalski and Dörfler, "Audio declipping with social sparsity" (2014); here the constraint is any feasible
set.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from nldiff.cores import side_by_side
from nldiff.errors import NldiffError, require
from nldiff.restoration.feasible import FeasibleSet, Intervals
from nldiff.transforms.stft import overlap_add, stft

# Narrower intervals leave nothing open, as a fraction of the RMS.
_KNOWN = 1e-2
# Stretches that are nearer than this, in samples, are one: it would take as long to begin another.
_GAP = 8192


@dataclass(frozen=True)
class RefinementSettings:
    """How chunks are restored once the operator is known; the group `refinement`.

    Attributes:
        name: key of `nldiff.restoration.strategies.STRATEGIES`; "auto": the first one that is for the operator; "none":
            posterior sampling, as in the 2025 paper.
        iterations: of the shrinkage, for each window.
        windows: lengths of the Hann windows in samples at the prior's rate, multiples of 4, the shortest first.
        first_threshold, last_threshold: of the shrinkage, as fractions of the largest coefficient of an item.
        momentum: largest of the iterations, 0 to below 1; after k of them it is at most k / (k + 3).
        settling: iterations that follow for each window and for one of half the shortest, from the mean of what the
            windows found or what the network made of it; 0 leaves them out. They are for music: what they take away of
            speech is heard.
        settling_threshold: the threshold that they start with; they end with the last one.
        energy_floor: what counts as no energy in `spread`, as a fraction of the mean energy of the coefficients.
        network: that goes over the result: "auto", the shipped one for the prior if it is for the rate of the recording
            and for these windows; the path of a file; or "none".
    """

    name: str = "auto"
    iterations: int = 300
    windows: tuple[int, ...] = (4096, 8192, 16384)
    first_threshold: float = 0.1
    last_threshold: float = 1e-4
    momentum: float = 0.97
    settling: int = 0
    settling_threshold: float = 3e-4
    energy_floor: float = 0.01
    network: str = "auto"

    def __post_init__(self) -> None:
        """Validate the values."""
        require(self, "refinement", ("iterations",), least=1, below=1_000_000)
        require(self, "refinement", ("settling",), least=0, below=1_000_000)
        require(self, "refinement", ("windows",), below=1_000_000)
        thresholds = ("first_threshold", "last_threshold", "settling_threshold")
        require(self, "refinement", (*thresholds, "energy_floor"), above=0)
        require(self, "refinement", ("momentum",), least=0, below=1)
        rising = list(self.windows) == sorted(set(self.windows))
        if not self.windows or not rising or any(window < 4 or window % 4 for window in self.windows):
            reason = "positive multiples of 4, the shortest first, expected"
            raise NldiffError(f"refinement.windows={list(self.windows)}: {reason}")


def spread(x: Tensor, windows: Sequence[int], floor: float = 0.01) -> float:
    """How evenly the energy of `x` is spread over short-time spectra; less for sparser signals, whatever their level.

    Mean of `log(floor + |X|^2 / mean |X|^2)` over the coefficients X, and over the windows: `log(1 + floor)` if all
    magnitudes are the same, and towards `log(floor)` if a few coefficients have all the energy.

    Args:
        x: signals [batch, time], not silent.
        windows: lengths of the Hann windows in samples, multiples of 4.
        floor: what smaller coefficients have does not count, as a fraction of the mean energy.
    """
    energies = (stft(x, window, window // 4).abs().square() for window in windows)
    return float(torch.stack([(e / e.mean() + floor).log().mean() for e in energies]).mean())


def sparsest_consistent(
    x: Tensor,
    feasible: FeasibleSet,
    windows: Sequence[int],
    iterations: int,
    settings: RefinementSettings,
    on_share: Callable[[float], None] | None = None,
) -> Tensor:
    """Move `x` to a sparse signal of the feasible set.

    Iterative shrinkage with momentum: the threshold falls by the same factor in every iteration, and every iteration
    starts with a projection onto the set. What is sparse depends on the window; the mean of what different windows give
    has a smaller error than most of them, and is projected once more.

    Args:
        x: estimates of the clean signal [batch, time].
        feasible: set of [batch, time].
        windows: lengths of the Hann windows in samples at the rate of `x`, multiples of 4.
        iterations: how many, for each window.
        settings: thresholds and momentum.
        on_share: told after every part of the work which share of the whole it was.

    Returns:
        [batch, time], a member of the set.
    """
    found = sparse_by_window(x, feasible, windows, iterations, settings, on_share)
    return feasible.project(found.transpose(0, 1).mean(0))


def settled(
    x: Tensor,
    feasible: FeasibleSet,
    windows: Sequence[int],
    settings: RefinementSettings,
    on_share: Callable[[float], None] | None = None,
) -> Tensor:
    """Take off `x` what it has where the clean signal has next to nothing, see `RefinementSettings.settling`.

    A mean of several estimates, or what a network corrects, is not sparse, and its projection is less so: the error is
    small, but lies where the ear finds nothing that hides it.

    The arguments and the result are those of `sparsest_consistent`.
    """
    if not settings.settling:
        return x
    low = replace(settings, first_threshold=settings.settling_threshold)
    shorter = 4 * max(1, windows[0] // 8)
    return sparsest_consistent(x, feasible, [shorter, *windows], settings.settling, low, on_share)


def sparse_by_window(
    x: Tensor,
    feasible: FeasibleSet,
    windows: Sequence[int],
    iterations: int,
    settings: RefinementSettings,
    on_share: Callable[[float], None] | None = None,
) -> Tensor:
    """What `sparsest_consistent` finds with every window before the mean and the last projection.

    The arguments are the same; returns [batch, windows, time].
    """
    # Otherwise the way into the set would count as momentum, and be overshot several times over.
    x = feasible.project(x)
    if isinstance(feasible, Intervals) and x.device.type == "cpu" and x.dtype == torch.float32:
        found = _compiled(x, feasible, windows, iterations, settings, on_share)
    else:
        found = torch.stack([_sparsest(x, feasible, window, iterations, settings) for window in windows])
    return found.transpose(0, 1)


def _sparsest(x: Tensor, feasible: FeasibleSet, window: int, iterations: int, settings: RefinementSettings) -> Tensor:
    """`sparsest_consistent` with one window and a start `x` inside the set."""
    hop, half, samples = window // 4, window // 2, x.shape[1]
    hann = torch.hann_window(window, device=x.device, dtype=x.dtype)
    spectrum = stft(x, window, hop)
    largest = spectrum.abs().amax((1, 2), keepdim=True)
    inside = slice(half, half + samples)
    weight = overlap_add(hann.square().expand(1, spectrum.shape[1], -1), hop)[:, inside].reciprocal()
    ahead = previous = x
    for threshold, momentum in _schedule(iterations, settings):
        spectrum = stft(feasible.project(ahead), window, hop)
        energy = _mean_of_neighbours((spectrum * spectrum.conj()).real)
        noise_share = energy.clamp_(min=torch.finfo(energy.dtype).tiny).reciprocal_().mul_((threshold * largest) ** 2)
        gain = noise_share.neg_().add_(1).clamp_(min=0)
        frames = torch.fft.irfft(spectrum.mul_(gain), n=window).mul_(hann)
        current = overlap_add(frames, hop)[:, inside] * weight
        ahead = torch.lerp(previous, current, 1 + momentum)
        previous = current
    return previous


def _compiled(
    x: Tensor,
    feasible: Intervals,
    windows: Sequence[int],
    iterations: int,
    settings: RefinementSettings,
    on_share: Callable[[float], None] | None = None,
) -> Tensor:
    """What `_sparsest` finds with every window [windows, batch, time], on a CPU, all of them side by side.

    Stretches in which no sample may move stay as they are.
    """
    from nldiff.restoration.shrinkage import shrunk  # numba takes its time

    schedule, found = _schedule(iterations, settings), x.expand(len(windows), *x.shape).clone()
    stretches = [
        (found[index, item, stretch], feasible.low[item, stretch], feasible.high[item, stretch], window, largest)
        for index, window in enumerate(windows)
        for item, largest in enumerate(stft(x, window, window // 4).abs().amax((1, 2)).tolist())
        for stretch in open_stretches(x[item], feasible.low[item], feasible.high[item], window)
    ]
    # The longest first: the cores end together.
    stretches.sort(key=lambda stretch: -len(stretch[0]))
    total = sum(len(stretch[0]) for stretch in stretches)

    def shrink(signal: Tensor, low: Tensor, high: Tensor, window: int, largest: float) -> float:
        signal.copy_(shrunk(signal, low, high, window, largest, schedule))
        return len(signal) / total

    side_by_side([partial(shrink, *stretch) for stretch in stretches], on_share)
    return found


def open_stretches(x: Tensor, low: Tensor, high: Tensor, window: int) -> list[slice]:
    """Where shrinkage can move samples, in order, with as much beside it as that depends on.

    Frames whose samples are all known stay what they are. Those beside the others matter for the mean energy of
    neighbours, and only there.

    Args:
        x: signal [time].
        low: smallest value of every sample, same shape.
        high: largest value, same shape.
        window: length of the Hann window in samples, a multiple of 4.

    Returns:
        Slices of the signal; they begin at multiples of a quarter of the window.
    """
    hop, samples = window // 4, len(x)
    count = 1 + samples // hop
    may_move = high - low > _KNOWN * x.square().mean().sqrt()
    # Frame f has two blocks of a hop on either side of sample f * hop; a stretch has three, for whole frames beside it.
    blocks = torch.nn.functional.pad(may_move, (2 * hop, (count + 1) * hop - samples)).view(-1, hop).any(1)
    frames = blocks.unfold(0, 4, 1).any(1)
    inside = torch.nn.functional.pad(frames, (2, 3)).unfold(0, 6, 1).any(1)
    edges = torch.nn.functional.pad(inside.int(), (1, 1)).diff().nonzero()[:, 0] * hop
    stretches: list[slice] = []
    for start, end in edges.clamp(max=samples).view(-1, 2).tolist():
        if stretches and start - stretches[-1].stop < _GAP:
            start = stretches.pop().start
        stretches.append(slice(start, end))
    return stretches


def _schedule(iterations: int, settings: RefinementSettings) -> list[tuple[float, float]]:
    """Threshold, as a fraction of the largest coefficient, and momentum of every iteration.

    The momentum grows as that of Nesterov does: with much of it from the start, few iterations overshoot.
    """
    fall = settings.last_threshold / settings.first_threshold
    thresholds = [settings.first_threshold * fall ** (k / max(1, iterations - 1)) for k in range(iterations)]
    return [(threshold, float(min(settings.momentum, k / (k + 3)))) for k, threshold in enumerate(thresholds)]


def _mean_of_neighbours(energy: Tensor) -> Tensor:
    """Mean over every frame of `energy` [batch, frames, bins] and those beside it; the first and last have one."""
    total = energy.clone()
    total[:, 1:] += energy[:, :-1]
    total[:, :-1] += energy[:, 1:]
    counts = total.new_full((energy.shape[1], 1), 3.0)
    counts[0] -= 1
    counts[-1] -= 1
    return total.div_(counts)
