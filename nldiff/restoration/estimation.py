"""The operator of a recording, from its loudest chunks, and the strategy that it allows."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nldiff.operators import Identity, Operator
from nldiff.restoration.changes import plateau_changes
from nldiff.restoration.evidence import Judgement
from nldiff.restoration.hypotheses import Candidate, by_evidence, judged_hypotheses
from nldiff.restoration.measures import plateau_share
from nldiff.restoration.progress import Progress
from nldiff.restoration.settings import configured_waveshaper
from nldiff.restoration.strategies import Strategy, Unchanged, choose_strategy, polarity
from nldiff.restoration.uncertainty import Expected, expected_sdr
from nldiff.restoration.workspace import Workspace, seed_of
from nldiff.sampling import Posterior, Step, generators

# The curve is noted after every step at so many points within so many multiples of the prior's level.
_NOTED_POINTS, _NOTED_SIGMAS = 201, 4.0
# Warnings where no restoration is believable, by finding.
_UNCHANGED = {
    "nothing happened": "no distortion was found: the recording comes back unchanged (--force restores it all the "
    "same)",
    "unexplained": "samples are piled up at the extremes, but no curve explains the recording: it comes back unchanged "
    "(was it filtered or compressed after clipping? --force takes the best curve all the same)",
}
_FORCED = {
    "nothing happened": "no distortion was found; the restoration was forced",
    "unexplained": "no curve explains the recording; the restoration was forced",
}


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
        hypothesis: of the restoration; where it is not believable, of the best one that was tried; "" if none was.
        judgement: of that restoration.
        log_odds: of every hypothesis that was tried, the most believable first.
        unchanged: whether the recording comes back as it is.
        notes: other things that a user should know, a line each.
    """

    finding: str
    hypothesis: str
    judgement: Judgement | None
    log_odds: dict[str, float]
    unchanged: bool
    notes: tuple[str, ...] = ()

    @property
    def margin(self) -> float | None:
        """Log-odds of the hypothesis over the next best one, "nothing happened" among them; None if none was tried."""
        others = [0.0, *(value for name, value in self.log_odds.items() if name != self.hypothesis)]
        return self.judgement.log_odds - max(others) if self.judgement else None

    @property
    def expected(self) -> Expected | None:
        """What SI-SDR to expect of the restoration; None where it is not believed, and after sampling."""
        believed = self.judgement if self.finding == "distorted" else None
        return expected_sdr(self.hypothesis, believed) if believed else None

    @property
    def warnings(self) -> list[str]:
        """What a user should know, a line each."""
        if self.finding == "distorted":
            return list(self.notes)
        return [_UNCHANGED[self.finding] if self.unchanged else _FORCED[self.finding], *self.notes]


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
    """Estimate the operator on the loudest excerpts.

    Cheap hypotheses are tried first, then sampling if they leave doubts: where they are hopeless and no samples are
    piled up, nothing happened. A known operator may need no sampling.

    Raises:
        NldiffError: sampling diverged.
    """
    y = work.observed(work.excerpts)
    if work.known:
        operator = work.known.at_level(work.gain)
        untouched = Unchanged(work.known) if isinstance(work.known, Identity) and work.settings.refines else None
        if strategy := untouched or choose_strategy(work, operator, y, None):
            return Estimate(strategy, None, None, 1, _trace(work, []))
        return _sampled(work, y, operator, progress)[0]
    if not work.settings.evidence.judge:
        return _sampled(work, y, _waveshaper(work), progress)[0]
    tried = judged_hypotheses(work, y)
    best, settings = tried[0].judgement.log_odds if tried else -np.inf, work.settings.evidence
    doubtful = settings.force or best > settings.hopeless or plateau_share(y, settings) > settings.largest_clean_plateau
    if best >= settings.certain or not doubtful:
        strategy, verdict = _believed(work, y, tried)
        return Estimate(strategy, verdict, None, 1, _trace(work, []))
    estimate, x = _sampled(work, y, _waveshaper(work), progress)
    sampled = Candidate("sampled", estimate.strategy, estimate.strategy.judged(work, y, x))
    strategy, verdict = _believed(work, y, by_evidence([*tried, sampled]))
    return replace(estimate, strategy=strategy, verdict=verdict)


def _sampled(work: Workspace, y: Tensor, operator: Operator, progress: Progress) -> tuple[Estimate, Tensor]:
    """Sample jointly with the parameters of the operator; also returns the sampled excerpts at the recording's rate."""
    grid, noted = _noted_inputs(work).to(work.device), list[np.ndarray]()

    def on_step(step: Step) -> None:
        if not work.known:
            with torch.no_grad():
                noted.append(operator.portrait(grid).curve[0].cpu().numpy())
        progress.advance()

    # A known operator fixes the scale of the signal; otherwise it is held at the prior's level.
    level = None if work.known else work.prior.sigma_data
    posterior = work.sampled(work.joint, y, operator, level, on_step)
    x = work.at_own_rate(posterior.audio, y.shape[1])
    strategy = choose_strategy(work, operator, y, x)
    assert strategy is not None, "posterior sampling is for every operator"
    return Estimate(strategy, None, posterior, polarity(x, y), _trace(work, noted)), x


def weigh(work: Workspace, y: Tensor, candidates: list[Candidate]) -> Verdict:
    """What the evidence says of the excerpts `y`, with candidates of which the most believable is first, if any."""
    best, settings = candidates[0] if candidates else None, work.settings.evidence
    if best and best.judgement.log_odds > settings.believable:
        finding = "distorted"
    else:
        piled_up = plateau_share(y, settings) > settings.largest_clean_plateau
        finding = "unexplained" if piled_up else "nothing happened"
    log_odds: dict[str, float] = {}
    for candidate in candidates:
        log_odds.setdefault(candidate.hypothesis, candidate.judgement.log_odds)
    unchanged = finding != "distorted" and not (settings.force and best)
    name, judgement = (best.hypothesis, best.judgement) if best else ("", None)
    return Verdict(finding, name, judgement, log_odds, unchanged)


def _believed(work: Workspace, y: Tensor, candidates: list[Candidate]) -> tuple[Strategy, Verdict]:
    verdict = weigh(work, y, candidates)
    if verdict.finding != "nothing happened":
        verdict = replace(verdict, notes=tuple(plateau_changes(work.recording, work.starts, work.length)))
    return Unchanged(Identity()) if verdict.unchanged else candidates[0].strategy, verdict


def doubted(work: Workspace, estimate: Estimate) -> Verdict | None:
    """The verdict with doubts that came up while chunks were restored; with such, a told operator is judged as well."""
    verdict, doubts = estimate.verdict, estimate.strategy.doubts()
    if not doubts:
        return verdict
    if verdict is None:
        judgement = estimate.strategy.judged(work, work.observed(work.excerpts))
        verdict = Verdict("distorted", "told", judgement, {"told": judgement.log_odds}, unchanged=False)
    return replace(verdict, notes=(*verdict.notes, *doubts))


def _noted_inputs(work: Workspace) -> Tensor:
    """Clean values [points] at which the curve is noted."""
    return torch.linspace(-_NOTED_SIGMAS, _NOTED_SIGMAS, _NOTED_POINTS) * work.prior.sigma_data


def _trace(work: Workspace, noted: list[np.ndarray]) -> Trace:
    return Trace(_noted_inputs(work).numpy(), np.reshape(noted, (-1, _NOTED_POINTS)))


def _waveshaper(work: Workspace) -> Operator:
    """The learnable curve of the settings with its start values."""
    waveshaper = configured_waveshaper(work.config).to(work.device)
    samples = np.concatenate(work.excerpts, axis=1) * work.gain
    sources = generators([seed_of(work.config.seed, -1, 0)])
    waveshaper.reset(torch.from_numpy(samples.reshape(1, -1)).to(work.device), sources)
    return waveshaper.for_rate(work.recording.sample_rate)
