"""Several recordings of one device, restored with one operator."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.operators import Operator, Rescaled, save_operator
from nldiff.restoration.inputs import PriorLike, loaded_priors
from nldiff.restoration.job import Job, OnStep
from nldiff.restoration.levels import explained_db, of_one
from nldiff.restoration.methods import Method, find_method
from nldiff.restoration.pipeline import restore_job
from nldiff.restoration.result import Restoration, main_part
from nldiff.restoration.settings import RestoreConfig, check_config
from nldiff.sound.recording import Recording

OPERATOR_NAME = "device.operator.json"
"""Name of the file of the common operator."""


@dataclass(frozen=True)
class Together:
    """What `restore_together` wrote, and the restoration of all recordings one after the other.

    Attributes:
        audio: restored files, in the order of the inputs.
        operator: file of the common operator.
        restoration: of all; its audio is that of the files, joined.
        warnings: what is missing in recordings that end early.
    """

    audio: tuple[Path, ...]
    operator: Path
    restoration: Restoration
    warnings: tuple[str, ...]


def restore_together(
    sources: Sequence[Path],
    folder: str | Path,
    prior: PriorLike = "auto",
    config: RestoreConfig | None = None,
    *,
    stems: Sequence[str] | None = None,
    method: str | Method = "blind",
    strict: bool = False,
    on_step: OnStep = None,
) -> Together:
    """Restore recordings that went through one device at one setting, as if they were one recording.

    The operator is estimated on the loudest chunks of all of them, of which there are at least as many as recordings.
    Every file gets STEM.restored.wav, STEM.curve.csv, STEM.curve.png and STEM.json; `OPERATOR_NAME` holds the
    operator that `nldiff apply` takes, and is written last: it is not there beside results of another one. All
    recordings are kept in memory.

    A chunk may reach from one recording into the next: as near to such a join as `refinement.windows` are long, results
    are worse.

    Args:
        sources: recordings of one rate, with as many channels.
        folder: where the results go.
        prior: as in `nldiff.restore`.
        config: everything else; its `prior` is not used.
        stems: of the results; those of the sources by default.
        method: as in `nldiff.restore`; one that finds an operator.
        strict: refuse recordings that end early, instead of restoring what can be read of them.
        on_step: told of the progress.

    Raises:
        NldiffError: unusable recordings, settings or method, or a file cannot be written.
    """
    config = config or RestoreConfig()
    check_config(config)
    chosen = find_method(method, None)
    if not chosen.finds_operator:
        raise NldiffError(f"--same-operator: --method {chosen.name} finds no operator")
    names = list(stems or [source.stem for source in sources])
    with ExitStack() as stack:
        paths = [stack.enter_context(sound.readable(source)) for source in sources]
        recordings = [Recording.from_file(path, strict) for path in paths]
        recording = Recording.of_several(recordings)
        items = max(config.joint_items, len(recordings) * recording.channels)
        config = replace(config, joint_items=items)
        job = Job(recording, config, loaded_priors(prior, config, chosen), None, None)
        restoration = restore_job(chosen, job, on_step)
        path = Path(folder) / OPERATOR_NAME
        path.unlink(missing_ok=True)
        starts = [0, *recording.joins]
        for name, one, start in zip(names, recordings, starts, strict=True):
            piece = np.ascontiguousarray(restoration.audio[:, start : start + one.frames])
            parts = of_one(restoration.parts, one, piece)
            own = replace(restoration, audio=piece, parts=parts, explained_db=explained_db(parts))
            own.save(folder, name, [one.loss] if one.loss else [])
    save_operator(found_operator(restoration), path)
    losses = tuple(f"{one.name}: {one.loss}" for one in recordings if one.loss)
    return Together(tuple(Path(folder) / f"{name}.restored.wav" for name in names), path, restoration, losses)


def found_operator(restoration: Restoration) -> Operator:
    """The operator of a restoration, from its audio to the recording; constants that were added are left out."""
    part = main_part(restoration.parts)
    operator = part.fit.operator
    if operator is None or not operator.context:
        return restoration.curve.operator()
    return Rescaled(operator, part.gain, 1 / part.fit.observation_gain)
