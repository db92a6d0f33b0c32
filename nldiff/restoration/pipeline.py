"""The one way from a recording to a restored one: library, files and experiments all come along here."""

import dataclasses

import numpy as np

from nldiff.curves import Curve
from nldiff.errors import NldiffError
from nldiff.restoration.inputs import (
    KnownOperator,
    PriorLike,
    checked_audio,
    checked_operator,
    checked_rate,
    loaded_priors,
)
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
        on_step: called with (steps done, steps in all).
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
        curve=Curve.from_function(curve, float(np.abs(raw).max()) * abs(gain)),
        explained_db=explained_db,
        method=method.name,
        gain=gain,
        fit=fit,
        config=dataclasses.asdict(job.config),
        known=str(job.known) if job.known else None,
    )


def restore(
    audio: np.ndarray,
    sample_rate: int,
    prior: PriorLike = "auto",
    *,
    method: str | Method | None = None,
    known: KnownOperator = None,
    config: RestoreConfig | None = None,
    weights: str | None = None,
    on_step: OnStep = None,
) -> Restoration:
    """Recover the clean signal and the transfer curve of a distorted recording.

    Args:
        audio: samples [time] or [channels, time], at most two channels; floats, or uint8, int16 or int32, which are
            divided by full scale.
        sample_rate: Hz; the prior's rate is met by resampling there and back.
        prior: shipped prior, file, or loaded prior or priors; "auto": the shipped prior that explains the recording
            best.
        method: key of `METHODS`, or weights of a network by name or path; by default "blind", or "informed" if the
            operator is known.
        known: the operator, a `Curve`, or a text such as "hard_clip:threshold=0.25", if it is known, in the units of
            `audio`.
        config: everything else; its `prior` is not used.
        weights: name or path of the weights of a network.
        on_step: called with (steps done, steps in all).

    Raises:
        NldiffError: unusable audio, rate, operator, prior, method or settings.
    """
    config = config or RestoreConfig()
    samples, operator = checked_audio(audio), checked_operator(known)
    recording = Recording.from_array(np.atleast_2d(samples), checked_rate(sample_rate))
    check_config(config)
    chosen = find_method(method or ("informed" if operator else "blind"), weights)
    priors = loaded_priors(prior, config, chosen)
    result = restore_job(chosen, Job(recording, config, priors, weights, operator), on_step)
    return dataclasses.replace(result, audio=result.audio.reshape(np.shape(audio)))
