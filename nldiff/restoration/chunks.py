"""The chunks of a recording, given its curve: sampled, or refined."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from nldiff.restoration.estimate import Estimate
from nldiff.restoration.task import Progress, Task
from nldiff.sound.rates import above_band


def restored_chunks(task: Task, estimate: Estimate, progress: Progress) -> Iterator[np.ndarray]:
    """The restored chunks [channels, length] at the recording's rate and the prior's level, in order.

    Raises:
        NldiffError: sampling diverged.
    """
    increasing = estimate.increasing is not None
    ready: dict[int, np.ndarray] = {}
    if estimate.posterior and task.samples_are_result(increasing):
        ready = _finished(task, task.joint, task.at_own_rate(estimate.posterior.audio, task.length), estimate)
    calls = iter(task.calls(increasing))
    for chunk in range(len(task.starts)):
        if chunk not in ready:
            chunks = next(calls)
            ready |= _finished(task, chunks, _restored(task, chunks, estimate, progress), estimate)
        yield ready.pop(chunk)


def evaluations(task: Task, estimate: Estimate) -> int:
    """Network evaluations per item, those for the curve included."""
    spent = estimate.posterior.evaluations if estimate.posterior else 0
    if estimate.increasing:
        return spent + (task.settings.polish_steps if task.settings.polish_sigma else 0)
    return spent if task.samples_are_result(increasing=False) else 2 * spent


def _restored(task: Task, chunks: list[int], estimate: Estimate, progress: Progress) -> Tensor:
    """Clean signals [chunks * channels, length] at the recording's rate and the prior's level."""
    y = task.observed([task.read(chunk) for chunk in chunks])
    if not estimate.increasing:
        posterior = task.sampled(chunks, y, estimate.curve, None, lambda step: progress.advance())
        return task.at_own_rate(posterior.audio, task.length)
    x = task.refined(task.first_guess(y), estimate.increasing, y, task.settings.refine_iterations)
    if task.settings.polish_sigma:
        x = task.polished(chunks, x, estimate.increasing, y)
    progress.advance()
    return x


def _finished(task: Task, chunks: list[int], restored: Tensor, estimate: Estimate) -> dict[int, np.ndarray]:
    """Chunks [channels, length] from `restored` [chunks * channels, length], both at the prior's level."""
    given, used = task.recording.sample_rate, task.prior.sample_rate
    pieces = dict(zip(chunks, restored.cpu().numpy().reshape(len(chunks), task.recording.channels, -1), strict=True))
    if estimate.increasing or task.config.above_band == "drop" or given <= used:
        return pieces
    gain = estimate.polarity * task.gain
    return {chunk: x + above_band(task.read(chunk) * gain, given, used) for chunk, x in pieces.items()}
