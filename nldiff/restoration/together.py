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
    """

    audio: tuple[Path, ...]
    operator: Path
    restoration: Restoration


def restore_together(
    sources: Sequence[Path],
    folder: str | Path,
    prior: PriorLike = "auto",
    config: RestoreConfig | None = None,
    *,
    stems: Sequence[str] | None = None,
    method: str | Method = "blind",
    on_step: OnStep = None,
) -> Together:
    """Restore recordings that went through one device at one setting, as if they were one recording.

    The operator is estimated on the loudest chunks of all of them, of which there are at least as many as recordings.
    Every file gets STEM.restored.wav, STEM.curve.csv, STEM.curve.png and STEM.json; `OPERATOR_NAME` holds the
    operator that `nldiff apply` takes. All recordings are kept in memory.

    A chunk may reach from one recording into the next.

    Args:
        sources: recordings of one rate, with as many channels.
        folder: where the results go.
        prior: as in `nldiff.restore`.
        config: everything else; its `prior` is not used.
        stems: of the results; those of the sources by default.
        method: as in `nldiff.restore`; one that finds an operator.
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
        recordings = [Recording.from_file(path, strict=False) for path in paths]
        recording = Recording.of_several(recordings)
        items = max(config.joint_items, len(recordings) * recording.channels)
        config = replace(config, joint_items=items)
        job = Job(recording, config, loaded_priors(prior, config, chosen), None, None)
        restoration = restore_job(chosen, job, on_step)
    starts = [0, *recording.joins, recording.frames]
    written = []
    for name, start, end in zip(names, starts, starts[1:], strict=False):
        piece = np.ascontiguousarray(restoration.audio[:, start:end])
        replace(restoration, audio=piece).save(folder, name)
        written.append(Path(folder) / f"{name}.restored.wav")
    path = Path(folder) / OPERATOR_NAME
    save_operator(found_operator(restoration), path)
    return Together(tuple(written), path, restoration)


def found_operator(restoration: Restoration) -> Operator:
    """The operator of a restoration, from its audio to the recording; constants that were added are left out."""
    part = main_part(restoration.parts)
    operator = part.fit.operator
    if operator is None or not operator.context:
        return restoration.curve.operator()
    return Rescaled(operator, part.gain, 1 / part.fit.observation_gain)
