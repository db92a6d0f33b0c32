"""The operator of a recording, from its loudest chunks, and the strategy that it allows."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nldiff.operators import Identity, Operator
from nldiff.restoration.evidence import Judgement, nothing_happened
from nldiff.restoration.progress import Progress
from nldiff.restoration.settings import configured_waveshaper
from nldiff.restoration.strategies import (
    SparseRefinement,
    Strategy,
    Unchanged,
    allowed_strategies,
    choose_strategy,
    polarity,
)
from nldiff.restoration.workspace import Workspace, seed_of
from nldiff.sampling import Posterior, Step, generators

# The curve is noted after every step at so many points within so many multiples of the prior's level.
_NOTED_POINTS, _NOTED_SIGMAS = 201, 4.0


@dataclass(frozen=True)
class Trace:
    """How the curve came about, at the prior's level.

    Attributes:
        inputs: clean values [points].
        curves: the curve at them after every diffusion step, [steps, points]; no rows where it was known.
    """

    inputs: np.ndarray
    curves: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What the evidence says of a blind restoration.

    Attributes:
        finding: "distorted", "nothing happened" or "unexplained": distorted, but no restoration is believable.
        judgement: of the restoration; where it is not believable, of the one that was tried.
    """

    finding: str
    judgement: Judgement

    @property
    def unchanged(self) -> bool:
        """Whether the recording comes back as it is."""
        return self.finding != "distorted"

    @property
    def warnings(self) -> list[str]:
        """What a user should know, a line each."""
        if self.finding == "nothing happened":
            return ["no distortion was found: the recording comes back unchanged (--force restores it all the same)"]
        if self.finding == "unexplained":
            return [
                "samples are piled up at the extremes, but no curve explains the recording: it comes back unchanged "
                "(was it filtered or resampled after clipping? --force takes the best curve all the same)"
            ]
        return []


@dataclass(frozen=True)
class Estimate:
    """The operator of a recording; see `estimate_operator`.

    Attributes:
        strategy: how to restore the chunks; it has the operator.
        verdict: what the evidence says; None where the operator was known or evidence was not asked for.
        posterior: what was sampled along with it; None if nothing had to be.
        polarity: -1 if the restored signal is upside down, else 1.
        trace: how the curve came about.
    """

    strategy: Strategy
    verdict: Verdict | None
    posterior: Posterior | None
    polarity: int
    trace: Trace


def estimate_operator(work: Workspace, progress: Progress) -> Estimate:
    """Estimate the operator on the loudest excerpts by sampling; one that is known may need no sampling.

    Raises:
        NldiffError: sampling diverged.
    """
    y = work.observed(work.excerpts)
    operator = work.known.at_level(work.gain) if work.known else _waveshaper(work)
    grid = torch.linspace(-_NOTED_SIGMAS, _NOTED_SIGMAS, _NOTED_POINTS) * work.prior.sigma_data
    noted: list[np.ndarray] = []
    untouched = Unchanged(work.known) if isinstance(work.known, Identity) and work.settings.refines else None
    if work.known and (strategy := untouched or choose_strategy(work, operator, y, None)):
        return Estimate(strategy, None, None, 1, Trace(grid.numpy(), np.zeros((0, _NOTED_POINTS))))

    def on_step(step: Step) -> None:
        if not work.known:
            with torch.no_grad():
                noted.append(operator.portrait(grid.to(work.device)).curve[0].cpu().numpy())
        progress.advance()

    # A known operator fixes the scale of the signal; otherwise it is held at the prior's level.
    level = None if work.known else work.prior.sigma_data
    posterior = work.sampled(work.joint, y, operator, level, on_step)
    x = work.at_own_rate(posterior.audio, y.shape[1])
    strategy = choose_strategy(work, operator, y, x)
    assert strategy is not None, "posterior sampling is for every operator"
    verdict = None
    if work.settings.evidence.judge and not work.known:
        strategy, verdict = _believable(work, strategy, y, x)
    trace = Trace(grid.numpy(), np.reshape(noted, (-1, _NOTED_POINTS)))
    return Estimate(strategy, verdict, posterior, polarity(x, y), trace)


def _believable(work: Workspace, sampled: Strategy, y: Tensor, x: Tensor) -> tuple[Strategy, Verdict]:
    """The first hypothesis that the evidence is for: what was sampled, plain curves, nothing happened."""
    best: Judgement | None = None
    for hypothesis in _hypotheses(work, sampled, y):
        judgement = hypothesis.judged(work, y, x)
        if judgement.log_odds > 0:
            return hypothesis, Verdict("distorted", judgement)
        best = judgement if best is None or judgement.log_odds > best.log_odds else best
    assert best is not None
    clean = nothing_happened([best], work.settings.evidence)
    return Unchanged(Identity()), Verdict("nothing happened" if clean else "unexplained", best)


def _hypotheses(work: Workspace, sampled: Strategy, y: Tensor) -> Iterator[Strategy]:
    yield sampled
    if SparseRefinement in allowed_strategies(work.settings.refinement.name):
        yield SparseRefinement.plain(work, y)


def _waveshaper(work: Workspace) -> Operator:
    """The learnable curve of the settings with its start values."""
    waveshaper = configured_waveshaper(work.config).to(work.device)
    samples = np.concatenate(work.excerpts, axis=1) * work.gain
    sources = generators([seed_of(work.config.seed, -1, 0)])
    waveshaper.reset(torch.from_numpy(samples.reshape(1, -1)).to(work.device), sources)
    return waveshaper
