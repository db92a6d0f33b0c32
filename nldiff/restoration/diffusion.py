"""The methods with a diffusion prior: blind restoration, and the one that is told the operator.

Chunks and channels of a recording share one operator: it is estimated by sampling on the loudest chunks jointly, then
held fixed while the chunks are restored one after the other, so memory does not grow with the length.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from nldiff import sound
from nldiff.cores import side_by_side
from nldiff.operators import AtRate, Chain, Identity, Operator
from nldiff.priors.choice import choose_prior
from nldiff.restoration.estimation import Estimate, doubted, estimate_operator
from nldiff.restoration.fit import Fit, Sampling
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.peeling import peel
from nldiff.restoration.planning import plan_chunks, plan_estimate
from nldiff.restoration.progress import Progress
from nldiff.restoration.settings import check_config, resolve_settings
from nldiff.restoration.strategies import Strategy, split_channels
from nldiff.restoration.workspace import Workspace, make_workspace
from nldiff.sampling import Posterior, sample
from nldiff.sound.chunks import joined
from nldiff.sound.narrow import narrowed, widened

# Shares of work that are less are none.
_ROUNDING = 1e-6


def diffusion(
    job: Job,
    emit: Emit,
    on_step: OnStep,
    *,
    told: bool,
    waveshaper: str | None = None,
    sample: Callable[..., Posterior] = sample,
) -> Fit:
    """Restore with a diffusion prior.

    Args:
        job: the recording, its priors and settings.
        emit: gets consecutive restored blocks.
        on_step: told of the progress.
        told: use the known operator of the job.
        waveshaper: family of the curve instead of that of the settings.
        sample: draws from the posterior.
    """
    started = time.monotonic()
    config = dataclasses.replace(job.config, waveshaper=waveshaper) if waveshaper else job.config
    check_config(config)
    progress = Progress(on_step)
    known = job.known if told else None
    # What is told holds for the recording as it is.
    recording = narrow = job.recording if known else narrowed(job.recording)
    choice = choose_prior(recording, job.priors)
    last: Operator = Identity()
    if known and resolve_settings(choice.prior, config).refines:
        recording, known, last = peel(recording, known)
    work = make_workspace(recording, choice.prior, config, known, sample, progress)
    plan_estimate(work, len(calls(work, [])))
    estimate = estimate_operator(work, progress)
    strategy, posterior = estimate.strategy, estimate.posterior
    ready = strategy.ready(work) if posterior else []
    plan_chunks(work, strategy, len(calls(work, ready)))
    chunks = joined(restored_chunks(work, estimate, ready, progress), work.starts, recording.frames)
    for block in widened(chunks, narrow, job.recording, estimate.polarity * work.gain):
        emit(block)
    progress.finish()
    own, used = recording.sample_rate, choice.prior.sample_rate
    operator = strategy.operator
    if not isinstance(last, Identity):
        operator = Chain([operator, last.at_level(work.gain)])
    return Fit(
        operator=operator if narrow is job.recording else AtRate(operator, own, job.recording.sample_rate),
        observation_gain=work.gain,
        seconds=time.monotonic() - started,
        restored_band_hz=(own if strategy.full_band else min(own, used)) / 2,
        sampling=Sampling(
            prior=choice.prior.name,
            prior_scores=choice.scores,
            settings=work.settings,
            cost=tuple(posterior.cost.mean(1).tolist()) if posterior else (),
            evaluations=strategy.evaluations(work, posterior.evaluations if posterior else 0),
            trace=estimate.trace,
            verdict=doubted(work, estimate),
        ),
    )


def calls(work: Workspace, ready: list[int]) -> list[list[int]]:
    """Chunks that are left to restore once the operator is known, in order, those of one network call together."""
    chunks = [chunk for chunk in range(len(work.starts)) if chunk not in ready]
    per_call = max(1, work.batch_size // work.recording.channels)
    return [chunks[i : i + per_call] for i in range(0, len(chunks), per_call)]


def at_once(work: Workspace, strategy: Strategy) -> int:
    """Number of calls of the strategy that are made side by side."""
    return torch.get_num_threads() if strategy.side_by_side and work.device.type == "cpu" else 1


def restored_chunks(work: Workspace, estimate: Estimate, ready: list[int], progress: Progress) -> Iterator[np.ndarray]:
    """The restored chunks [channels, length] at the recording's rate and the prior's level, in order.

    Sampling for the operator has restored those that are `ready`.

    Raises:
        NldiffError: sampling diverged.
    """
    strategy, posterior, channels = estimate.strategy, estimate.posterior, work.recording.channels
    finished: dict[int, np.ndarray] = {}
    if posterior and ready:
        finished = split_channels(work.at_own_rate(posterior.audio, work.length), ready, channels)
    remaining = iter(calls(work, ready))
    for chunk in range(len(work.starts)):
        if chunk not in finished:
            together = list(islice(remaining, at_once(work, strategy)))
            # Files are read in one thread.
            observed = [work.observed([work.read(chunk) for chunk in chunks]) for chunks in together]
            pieces = [
                partial(_restored, work, strategy, chunks, y, progress)
                for chunks, y in zip(together, observed, strict=True)
            ]
            for chunks, restored in zip(together, side_by_side(pieces), strict=True):
                finished |= split_channels(restored, chunks, channels)
        yield finished.pop(chunk) + _band_kept(work, strategy, estimate.polarity, chunk)


def _restored(work: Workspace, strategy: Strategy, chunks: list[int], y: Tensor, progress: Progress) -> Tensor:
    """What the strategy makes of chunks; shares of the work that it does not tell of count at the end."""
    left = 1.0

    def count(share: float) -> None:
        nonlocal left
        left -= share
        progress.advance(strategy.phase, share)

    restored = strategy.restore(work, chunks, y, count)
    if left > _ROUNDING:
        progress.advance(strategy.phase, left)
    return restored


def _band_kept(work: Workspace, strategy: Strategy, polarity: int, chunk: int) -> np.ndarray | float:
    """What is observed of a chunk above the band that was restored, at the prior's level, if the settings keep it."""
    given, used = work.recording.sample_rate, work.prior.sample_rate
    if strategy.full_band or work.config.above_band == "drop" or given <= used:
        return 0.0
    return sound.above_band(work.read(chunk) * (polarity * work.gain), given, used)
