"""The one way from a recording to a restored one: library, files and experiments all come along here."""

import dataclasses
from pathlib import Path

import numpy as np

from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators import Operator
from nldiff.priors import Prior
from nldiff.priors.choice import load_candidates
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.methods import Method, find_method
from nldiff.restoration.result import Fit, Restoration, settle
from nldiff.restoration.settings import RestoreConfig, check_config
from nldiff.sound.recording import Recording


def run_method(method: Method, job: Job, emit: Emit, on_step: OnStep = None) -> Fit:
    """Restore piece by piece: `emit` gets consecutive blocks [channels, n] at the method's level, in order.

    Raises:
        NldiffError: the job lacks what the method needs, unusable settings, or the method fails.
    """
    method.check(job)

    def checked(block: np.ndarray) -> None:
        if not np.isfinite(block).all():
            raise NldiffError(f"NaN or infinite samples in the result for {job.recording.name}")
        emit(block)

    return method.run(job, checked, on_step)


def restore_job(method: Method, job: Job, on_step: OnStep = None, own_scale: bool = False) -> Restoration:
    """Restore a recording in memory; `audio` of the result is [channels, frames]. Raises as `run_method`.

    Args:
        method: what restores.
        job: the recording.
        on_step: told of the progress: (seconds so far, expected seconds in all, what is being done).
        own_scale: keep the scale of a method that fixes it, instead of giving `audio` the RMS of the recording.
    """
    blocks: list[np.ndarray] = []
    fit = run_method(method, job, blocks.append, on_step)
    raw = np.concatenate(blocks, axis=1)

    def read(start: int, frames: int) -> np.ndarray:
        return raw[:, start : start + frames]

    gain, curve, explained_db = settle(fit, job.recording, read, 1 / fit.observation_gain if own_scale else None)
    return Restoration(
        audio=(raw * gain).astype(np.float32),
        sample_rate=job.recording.sample_rate,
        curve=curve,
        explained_db=explained_db,
        method=method.name,
        gain=gain,
        fit=fit,
        config=dataclasses.asdict(job.config),
    )


def restore(
    audio: np.ndarray,
    sample_rate: int,
    prior: str | Path | Prior = "auto",
    *,
    method: str | None = None,
    known: Operator | None = None,
    config: RestoreConfig | None = None,
    weights: str | None = None,
    on_step: OnStep = None,
) -> Restoration:
    """Recover the clean signal and the transfer curve of a distorted recording.

    Args:
        audio: samples [time] or [channels, time], at most two channels.
        sample_rate: Hz; the prior's rate is met by resampling there and back.
        prior: shipped prior, file or loaded prior; "auto": the shipped prior that explains the recording best.
        method: key of `METHODS`, or weights of a network by name or path; by default "blind", or "informed" if the
            operator is known.
        known: the operator, if it is known, in the units of `audio`.
        config: everything else; its `prior` is not used.
        weights: name or path of the weights of a network.
        on_step: told of the progress: (seconds so far, expected seconds in all, what is being done).

    Raises:
        NldiffError: unusable audio, method or settings.
    """
    config = config or RestoreConfig()
    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise NldiffError(f"audio of shape {list(samples.shape)}: [time] or [channels, time] expected")
    recording = Recording.from_array(np.atleast_2d(samples), sample_rate)
    check_config(config)
    chosen = find_method(method or ("informed" if known else "blind"), weights)
    priors: list[Prior] = []
    if chosen.uses_prior:
        priors = [prior] if isinstance(prior, Prior) else load_candidates(prior, choose_device(config.device))
    result = restore_job(chosen, Job(recording, config, priors, weights, known), on_step)
    return dataclasses.replace(result, audio=result.audio.reshape(np.shape(audio)))
