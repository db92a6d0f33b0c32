"""The one way from a recording to a restored one: library, files and experiments all come along here."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np

from nldiff.curves import Curve
from nldiff.errors import NldiffError
from nldiff.operators import Identity
from nldiff.restoration.fit import Fit
from nldiff.restoration.inputs import (
    KnownOperator,
    PriorLike,
    checked_audio,
    checked_operator,
    checked_rate,
    loaded_priors,
)
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.levels import explained_db, settle
from nldiff.restoration.methods import METHODS, Method, find_method
from nldiff.restoration.parts import Part, find_parts
from nldiff.restoration.result import Restoration, main_part
from nldiff.restoration.settings import RestoreConfig, check_config
from nldiff.sound.recording import Recording
from nldiff.sound.silence import silenced, silent_runs


def run_method(method: Method, job: Job, emit: Emit, on_step: OnStep = None) -> Fit:
    """Restore piece by piece: `emit` gets consecutive blocks [channels, n] at the method's level, in order.

    Digital silence stays what it is.

    Raises:
        NldiffError: the job lacks what the method needs, unusable settings, or the method fails.
    """
    method.check(job)
    silent, done = silent_runs(job.recording), 0

    def checked(block: np.ndarray) -> None:
        nonlocal done
        if not np.isfinite(block).all():
            raise NldiffError(f"NaN or infinite samples in the result for {job.recording.name}")
        emit(silenced(block, silent, done))
        done += block.shape[1]

    return method.run(job, checked, on_step)


def run_parts(
    method: Method, job: Job, emits: Callable[[int, Part], AbstractContextManager[Emit]], on_step: OnStep = None
) -> list[tuple[Part, Fit]]:
    """Restore the parts of a recording one after the other; a method that finds no operator takes all channels at once.

    Args:
        method: what restores.
        job: the recording.
        emits: number of a part -> what gets its blocks, as `run_method` does.
        on_step: told of the progress; parts that are to come count as much as the one at work.

    Raises:
        NldiffError: as `run_method`.
    """
    everything = [Part(tuple(range(job.recording.channels)))]
    parts = find_parts(job.recording) if method.finds_operator else everything
    fits: list[tuple[Part, Fit]] = []
    for i, part in enumerate(parts):
        spent, left = sum(fit.seconds for _, fit in fits), len(parts) - i

        def counted(done: float, total: float, phase: str, spent: float = spent, left: int = left) -> None:
            if on_step:
                on_step(spent + done, spent + left * total, phase)

        own = replace(job, recording=part.of(job.recording))
        with emits(i, part) as emit:
            if part.constant:
                fit = replace(run_method(METHODS["observed"], own, emit, counted), operator=Identity())
            else:
                fit = run_method(method, own, emit, counted)
        fits.append((part, fit))
    return fits


def restore_job(method: Method, job: Job, on_step: OnStep = None, own_scale: bool = False) -> Restoration:
    """Restore a recording in memory; `audio` of the result is [channels, frames]. Raises as `run_method`.

    Args:
        method: what restores.
        job: the recording.
        on_step: told of the progress: (seconds so far, expected seconds in all, what is being done).
        own_scale: keep the scale of the method instead of the level that the settings ask for.
    """
    fits, raws = restored_raws(method, job, on_step)
    readers = [partial(read_array, raw) for raw in raws]
    parts = settle(fits, job.recording, readers, "method" if own_scale else job.config.level)
    audio = np.empty((job.recording.channels, job.recording.frames), np.float32)
    for part, raw in zip(parts, raws, strict=True):
        audio[list(part.part.channels)] = part.place(raw)
    main = main_part(parts)
    # A channel of silence may stand for one with nothing but a click.
    peak = float(np.abs(audio[list(main.part.channels)]).max()) or float(np.abs(audio).max())
    return Restoration(
        audio=audio,
        sample_rate=job.recording.sample_rate,
        curve=Curve.from_function(main.curve, peak, band=main.band),
        explained_db=explained_db(parts),
        method=method.name,
        gain=main.gain,
        fit=main.fit,
        config=dataclasses.asdict(job.config),
        known=str(job.known) if job.known else None,
        parts=tuple(parts),
    )


def restored_raws(method: Method, job: Job, on_step: OnStep = None) -> tuple[list[tuple[Part, Fit]], list[np.ndarray]]:
    """The parts of a recording, and what the method emitted for them, [channels, frames]. Raises as `run_method`."""
    blocks: list[list[np.ndarray]] = []

    def keep(number: int, part: Part) -> AbstractContextManager[Emit]:
        blocks.append([])
        return nullcontext(blocks[number].append)

    fits = run_parts(method, job, keep, on_step)
    return fits, [np.concatenate(each, axis=1) for each in blocks]


def read_array(samples: np.ndarray, start: int, frames: int) -> np.ndarray:
    """Some frames of samples [channels, frames]."""
    return samples[:, start : start + frames]


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
        audio: samples [time] or [channels, time], any number of channels; floats, or uint8, int16 or int32, which are
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
        on_step: told of the progress: (seconds so far, expected seconds in all, what is being done).

    Raises:
        NldiffError: unusable audio, rate, operator, prior, method or settings.
    """
    chosen, job = prepared(audio, sample_rate, prior, method, known, config or RestoreConfig(), weights)
    result = restore_job(chosen, job, on_step)
    return dataclasses.replace(result, audio=result.audio.reshape(np.shape(audio)))


def prepared(
    audio: np.ndarray,
    sample_rate: int,
    prior: PriorLike,
    method: str | Method | None,
    known: KnownOperator,
    config: RestoreConfig,
    weights: str | None,
) -> tuple[Method, Job]:
    """The method and the job for the arguments of `restore`; raises as it does."""
    samples, operator = checked_audio(audio), checked_operator(known)
    recording = Recording.from_array(np.atleast_2d(samples), checked_rate(sample_rate))
    check_config(config)
    chosen = find_method(method or ("informed" if operator else "blind"), weights)
    return chosen, Job(recording, config, loaded_priors(prior, config, chosen), weights, operator)
