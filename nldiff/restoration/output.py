"""Restoring files: streaming in and out, and the four results of every input."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from nldiff import sound
from nldiff.curves import Curve
from nldiff.errors import NldiffError
from nldiff.figures import plots
from nldiff.operators import Operator, Recipe
from nldiff.restoration.fit import Fit
from nldiff.restoration.inputs import KnownOperator, PriorLike, checked_operator, loaded_priors
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.levels import Settled, settle
from nldiff.restoration.methods import Method, find_method
from nldiff.restoration.parts import Part, channel_names
from nldiff.restoration.pipeline import run_parts
from nldiff.restoration.result import PREVIEW, main_part, part_values, shown_range, versions
from nldiff.restoration.scoring import check_scores, scores
from nldiff.restoration.settings import RestoreConfig, check_config
from nldiff.sound.recording import Recording
from nldiff.writing import replace_together, scratch_folder, write_json

_PICTURE_SAMPLES = 1_000_000
# Below this, what was told is not what happened.
_UNLIKELY_DB = 10.0
_SUFFIXES = (".curve.csv", ".curve.png", ".json")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outputs:
    """Paths written for one input, and the content of the JSON report (there, None for what is not finite)."""

    audio: Path
    curve_table: Path
    curve_picture: Path
    report_path: Path
    report: dict[str, Any]


@dataclass(frozen=True)
class Restored:
    """What the results of a file were made of.

    Attributes:
        method: its name.
        job: the recording; it can be read no more.
        parts: in the units of the recording.
        raws: files of what the method emitted for every part; they go away unless they are moved.
        metadata: of the recording.
    """

    method: str
    job: Job
    parts: list[Settled]
    raws: list[Path]
    metadata: sound.Metadata


def restore_file(
    source: str | Path,
    folder: str | Path,
    prior: PriorLike = "auto",
    config: RestoreConfig | None = None,
    *,
    stem: str | None = None,
    audio_name: str | None = None,
    audio_format: sound.AudioFormat | None = None,
    known: KnownOperator = None,
    distort: Recipe | None = None,
    method: str | Method | None = None,
    weights: str | None = None,
    strict: bool = False,
    on_step: OnStep = None,
    on_restored: Callable[[Restored], object] = lambda restored: None,
    outdated: Sequence[Path] = (),
) -> Outputs:
    """Restore one file and write STEM.restored.wav, STEM.curve.csv, STEM.curve.png and STEM.json.

    Tags are kept, and broadcast and cue chunks of WAV files where the result is one.

    Args:
        source: distorted recording; with `distort` a clean one. What only ffmpeg reads is decoded by it.
        folder: where the results go; created if needed.
        prior: as in `nldiff.restore`.
        config: everything else; its `prior` is not used.
        stem: of the results; that of `source` by default.
        audio_name: name of the restored file instead of STEM.restored.wav.
        audio_format: of the restored file; float32 WAV by default.
        known: the operator, in the units of the file's samples, if it is known, as in `nldiff.restore`.
        distort: operator to apply first; the report then has scores against the truth, and the whole file is kept in
            memory.
        method: as in `nldiff.restore`, or as `find_method` gave it.
        weights: name or path of the weights of a method that is a network; None chooses them.
        strict: refuse a recording that ends early, instead of restoring what can be read; the report then says what
            is missing.
        on_step: told of the progress: (seconds so far, expected seconds in all, what is being done).
        on_restored: given what the results were made of, once they are written.
        outdated: files that were made of earlier results, and go with them, as the preview page does.

    Raises:
        NldiffError: unusable input, settings or folder. Files of an earlier run are then still as they were.
    """
    source, folder, config, operator = Path(source), Path(folder), config or RestoreConfig(), checked_operator(known)
    check_config(config)
    chosen = find_method(method or ("informed" if operator else "blind"), weights)
    audio_format = audio_format or sound.AudioFormat()
    stem = stem or source.stem
    results = result_paths(folder, stem, audio_name, audio_format)
    outdated = [folder / f"{stem}{PREVIEW}", *outdated]
    with sound.readable(source) as path:
        recording, truth, clean = _distorted(path, distort, strict)
        job = Job(recording, config, loaded_priors(prior, config, chosen), weights, operator, clean)
        chosen.check(job)
        report = _write_all(results, source, path, job, chosen, audio_format, truth, on_step, on_restored, outdated)
    return Outputs(results[0], results[1], results[2], results[3], report)


def result_paths(folder: Path, stem: str, audio_name: str | None, audio_format: sound.AudioFormat) -> list[Path]:
    """The four files that `restore_file` writes: audio, table, picture and report."""
    names = [audio_name or f"{stem}.restored{audio_format.suffix}", *(f"{stem}{suffix}" for suffix in _SUFFIXES)]
    return [folder / name for name in names]


def _write_all(
    results: list[Path],
    source: Path,
    path: Path,
    job: Job,
    method: Method,
    audio_format: sound.AudioFormat,
    truth: Operator | None,
    on_step: OnStep,
    on_restored: Callable[[Restored], object],
    outdated: Sequence[Path],
) -> dict[str, Any]:
    """Restore what `path` holds, which is or was decoded from `source`; returns the report."""
    recording = job.recording
    _log.info("%s: %d Hz, %d channels, %d samples", source, recording.sample_rate, recording.channels, recording.frames)
    # Everything is written to one side first: an earlier run's files are replaced by a complete set or not at all.
    with scratch_folder(results[0].parent) as scratch:
        _require_files(results)
        for result in results:
            (scratch / result.name).touch()  # a name that the disk refuses is reported before the work
        fits, raws = _restored_parts(method, job, scratch, on_step)
        parts = settle(fits, recording, [partial(read_file, raw) for raw in raws], job.config.level)
        report = _report(source, job) | part_values(parts) | {"method": method.name}
        report["warnings"] = [*filter(None, [recording.loss]), *report["warnings"]]
        if job.known is not None and report["explained_db"] < _UNLIKELY_DB:
            only = f"explains the recording to {report['explained_db']:.1f} dB only: another one may have made it"
            report["warnings"].append(f"{job.known} {only}")
        metadata = sound.read_metadata(path)
        audio, others = scratch / results[0].name, [scratch / result.name for result in results[1:]]
        peak, clipped = _write_audio(raws, audio, recording, parts, audio_format, metadata)
        report |= {"format": dataclasses.asdict(audio_format), "clipped_samples": clipped}
        report["warnings"] += [f"{clipped} samples were beyond full scale and are clipped"] if clipped else []
        report |= _write_curve(others, audio, job, parts, peak, truth)
        write_json(others[-1], report)
        replace_together([audio, *others], results[0].parent, outdated)
        on_restored(Restored(method.name, job, parts, raws, metadata))
    _log.info("%s: %s, %.1f s, gain %.4g", source, _found(report), report["seconds"], report["gain"])
    return report


def _found(report: dict[str, Any]) -> str:
    verdict = report["verdict"] or {"finding": "no verdict"}
    return f"method {report['method']}, prior {report['prior']}, {verdict['finding']}"


def _restored_parts(
    method: Method, job: Job, scratch: Path, on_step: OnStep
) -> tuple[list[tuple[Part, Fit]], list[Path]]:
    """The parts of a recording, and files of what the method emitted for them."""
    raws = []

    @contextmanager
    def writer(number: int, part: Part) -> Iterator[Emit]:
        raws.append(scratch / f"raw{number}.wav")
        with _create_raw(raws[number], part.of(job.recording)) as file:
            yield lambda block: file.write(block.T)

    return run_parts(method, job, writer, on_step), raws


def _write_curve(
    paths: list[Path], audio: Path, job: Job, parts: list[Settled], peak: float, truth: Operator | None
) -> dict[str, Any]:
    """Write table and picture; returns what the report says of curve and audio."""
    table, picture, _ = paths
    recording, main = job.recording, main_part(parts)
    curve = Curve.from_function(main.curve, peak, band=main.band)
    curve.save(table)
    samples = _some_samples(audio, recording)
    if len(parts) == 1:
        figure = curve.plot(samples)
    else:
        named = {channel_names(part.part.channels): part.curve(curve.inputs) for part in parts[: len(plots.STYLES)]}
        figure = plots.plot_curves(named, curve.inputs, title="Estimated transfer curves")
    plots.save_figure(figure, picture)
    report: dict[str, Any] = {"curve_range": shown_range(samples), "restored": audio.name}
    if job.clean is None or truth is None:
        return report
    restored, observed = read_file(audio, 0, recording.frames), recording.read(0, recording.frames)
    return report | {"distortion": str(truth), "scores": scores(job.clean, observed, restored, truth, curve)}


def _require_files(results: list[Path]) -> None:
    for path in results:
        if path.is_dir():
            raise NldiffError(f"{path} is a folder: it is in the way of a result")


def _some_samples(audio: Path, recording: Recording) -> np.ndarray:
    """Samples of a restored file, evenly picked, at most about a million of a channel."""
    stride = max(1, recording.frames // _PICTURE_SAMPLES)
    return np.concatenate([read_file(audio, start, n)[:, ::stride].ravel() for start, n in recording.blocks()])


def _distorted(
    source: Path, distort: Recipe | None, strict: bool
) -> tuple[Recording, Operator | None, np.ndarray | None]:
    """The recording; distorted first if that is asked for, with the operator and the clean signal."""
    recording = Recording.from_file(source, strict)
    if distort is None:
        return recording, None, None
    clean = recording.read(0, recording.frames)
    truth = distort.build(torch.from_numpy(clean), recording.sample_rate)
    observed = truth(torch.from_numpy(clean)).numpy()
    check_scores(source, clean, observed)
    observed_recording = Recording.from_array(observed, recording.sample_rate, str(source))
    return dataclasses.replace(observed_recording, loss=recording.loss), truth, clean


def _report(source: Path, job: Job) -> dict[str, Any]:
    return {
        "input": source.name,
        "sample_rate": job.recording.sample_rate,
        "channels": job.recording.channels,
        "frames": job.recording.frames,
        "known": str(job.known) if job.known else None,
        "config": dataclasses.asdict(job.config),
        "seed": job.config.seed,
        "versions": versions(),
        "threads": torch.get_num_threads(),
        "number_type": _number_type(job),
    }


def _number_type(job: Job) -> str:
    """Type of the numbers in the networks of the priors, which are all loaded alike."""
    networks = [prior.denoiser.network for prior in job.priors]
    return str(getattr(networks[0], "compute_dtype", torch.float32)).removeprefix("torch.") if networks else "float32"


def _write_audio(
    raws: list[Path],
    audio: Path,
    recording: Recording,
    parts: list[Settled],
    form: sound.AudioFormat,
    metadata: sound.Metadata,
) -> tuple[float, int]:
    """Write the parts in the units of the recording to one file; returns the peak and the number of clipped samples."""
    peak = 0.0
    with sound.audio_writer(audio, recording.sample_rate, recording.channels, form, metadata.tags) as writer:
        for start, frames in recording.blocks():
            block = np.empty((recording.channels, frames), np.float32)
            for part, raw in zip(parts, raws, strict=True):
                block[list(part.part.channels)] = part.place(read_file(raw, start, frames))
            peak = max(peak, float(np.abs(block).max()))
            writer.write(block)
    if form.container == "wav":
        sound.append_chunks(audio, metadata.chunks)
    return peak, writer.clipped


def _create_raw(path: Path, recording: Recording) -> soundfile.SoundFile:
    rate, channels = recording.sample_rate, recording.channels
    return soundfile.SoundFile(sound.sound_path(path), "w", rate, channels, subtype="FLOAT", format="RF64")


def read_file(path: Path, start: int, frames: int) -> np.ndarray:
    """Some frames of an audio file, [channels, frames]."""
    return sound.read(path, start, frames)[0]
