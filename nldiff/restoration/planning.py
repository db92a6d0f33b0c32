"""What a restoration is about to do, for its progress."""

import numpy as np

from nldiff.restoration.strategies import PosteriorSampling, SparseRefinement, Strategy, allowed_strategies
from nldiff.restoration.workspace import FITTING, GUIDED_SECONDS, LISTENING, SAMPLING, Workspace


def plan_estimate(work: Workspace, calls: int) -> None:
    """Plan before anything is known of the operator, with the first strategy that the settings allow.

    Args:
        work: the recording, prior and settings; its progress is told.
        calls: of a strategy, for all chunks.
    """
    progress, settings = work.progress, work.settings
    audio = sum(map(np.size, work.excerpts)) / work.recording.sample_rate
    refines = allowed_strategies(settings.refinement.name)[0] is SparseRefinement
    if not work.known or not refines:
        progress.expect(SAMPLING, settings.sampler.steps, audio * GUIDED_SECONDS)
    if refines:
        # Rounds of three starts and the evidence, unless the curve is known; halvings with what they start from.
        rounds = (0 if work.known else 3 * len(settings.curve.loosening)) + settings.curve.halvings + 1
        progress.expect(FITTING, rounds, audio * work.refinement_seconds(brief=True))
    whole = work.refinement_seconds(brief=False) if refines else settings.sampler.steps * GUIDED_SECONDS
    following = SparseRefinement if refines else PosteriorSampling
    progress.expect(following.phase, calls, whole * _audio(work) / calls, like=following.like)
    progress.advance(LISTENING)


def plan_chunks(work: Workspace, strategy: Strategy, calls: int) -> None:
    """Plan what is left once the strategy is chosen.

    Args:
        work: the recording, prior and settings; its progress is told.
        strategy: restores the chunks.
        calls: of the strategy, for the chunks that are left; may be none.
    """
    work.progress.close()
    if calls:
        seconds = strategy.seconds(work) * _audio(work) / calls
        work.progress.expect(strategy.phase, calls, seconds, like=strategy.like)


def _audio(work: Workspace) -> float:
    """Seconds of audio in all chunks and channels."""
    return len(work.starts) * work.length * work.recording.channels / work.recording.sample_rate
