"""Results: the restored recording at the level of the input, and what distorted it."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nldiff import sound
from nldiff.curves import Curve
from nldiff.figures import plots
from nldiff.restoration.fit import Fit
from nldiff.restoration.levels import Settled, explained_db
from nldiff.restoration.parts import channel_names
from nldiff.version import __version__
from nldiff.writing import replace_together, scratch_folder, write_json

# Share of the restored samples within the range of the curve that is shown.
_SHOWN = 0.9999
PREVIEW = ".preview.html"
"""End of the name of the page that `nldiff restore --preview` makes of results."""


@dataclass(frozen=True)
class Restoration:
    """A restored recording and what distorted it.

    Attributes:
        audio: restored signal, float32, same shape as the input, at the level that `RestoreConfig.level` asks for.
        sample_rate: Hz.
        curve: maps samples of `audio` to samples of the input, any shape; of an operator with memory its static curve.
        explained_db: SDR of the operator's output for `audio` against the input, dB.
        method: its name.
        gain: `audio` is the result at the method's level times this.
        fit: what the method found, at its own level.
        config: the `RestoreConfig` as a dictionary.
        known: text of the operator, where it was known.
        parts: channels that were restored with a curve of their own. `curve`, `gain` and `fit` are those of the first
            one that was restored at all; where none was, of the first one that is not constant.
        versions: of nldiff, torch and Python.
    """

    audio: np.ndarray
    sample_rate: int
    curve: Curve
    explained_db: float
    method: str
    gain: float
    fit: Fit
    config: dict[str, Any]
    known: str | None = None
    parts: tuple[Settled, ...] = ()
    versions: dict[str, str] = field(default_factory=lambda: versions())

    @property
    def evolution(self) -> tuple[np.ndarray, np.ndarray] | None:
        """How the curve came about: samples of `audio` [points], and of the input after every step [steps, points].

        The last row is the curve before the refinement, which changes it once more. None for methods without sampling.
        """
        if self.fit.sampling is None:
            return None
        trace, part = self.fit.sampling.trace, main_part(self.parts)
        inputs = trace.inputs * self.gain + part.shift * self.gain / part.gain
        return inputs, trace.curves / self.fit.observation_gain + part.part.offset

    def scaled(self, factor: float) -> "Restoration":
        """The same restoration with `factor` times the amplitude, not 0."""
        return replace(
            self,
            audio=(self.audio * factor).astype(np.float32),
            gain=self.gain * factor,
            curve=self.curve.scaled(factor),
            parts=tuple(part.scaled(factor) for part in self.parts),
        )

    def save(self, folder: str | Path, stem: str = "audio", warnings: Sequence[str] = ()) -> None:
        """Write STEM.restored.wav (float32), STEM.curve.csv, STEM.curve.png and STEM.json, as `nldiff restore` does.

        They replace earlier ones as a set, completely or not at all; the folder is created if needed.

        Args:
            folder: where they go.
            stem: how their names begin.
            warnings: further ones for the report.

        Raises:
            NldiffError: a file cannot be written.
        """
        audio, values = np.atleast_2d(self.audio), part_values(self.parts)
        report = {
            "sample_rate": self.sample_rate,
            "channels": audio.shape[0],
            "frames": audio.shape[1],
            "known": self.known,
            "config": self.config,
            "seed": self.config["seed"],
            "versions": self.versions,
            **values,
            "warnings": [*warnings, *values["warnings"]],
            "method": self.method,
            "restored": f"{stem}.restored.wav",
            "curve_range": shown_range(audio),
        }
        with scratch_folder(Path(folder)) as scratch:
            ends = (".restored.wav", ".curve.csv", ".curve.png", ".json")
            written = [scratch / f"{stem}{end}" for end in ends]
            sound.write_wav(written[0], audio, self.sample_rate)
            self.curve.save(written[1])
            plots.save_figure(self.curve.plot(audio), written[2])
            write_json(written[3], report)
            replace_together(written, Path(folder), [Path(folder) / f"{stem}{PREVIEW}"])


def main_part(parts: Sequence[Settled]) -> Settled:
    """The part that stands for a result of several: the first one that was restored, else the first that varies."""
    restored = [part for part in parts if not part.fit.unchanged]
    varying = [part for part in parts if not part.part.constant]
    return (restored or varying or parts)[0]


def part_values(parts: Sequence[Settled]) -> dict[str, Any]:
    """What reports say of the parts of a result."""
    main = main_part(parts)
    warnings = []
    for part in parts:
        verdict = part.fit.sampling.verdict if part.fit.sampling else None
        where = f"{channel_names(part.part.channels)}: " if len(parts) > 1 else ""
        warnings += [f"{where}{warning}" for warning in (verdict.warnings if verdict else [])]
    each = [
        {
            "channels": [channel + 1 for channel in part.part.channels],
            "offset": part.part.offset,
            "verdict": part.fit.values()["verdict"],
            "gain": part.gain,
            "level_db": part.level_db,
            "explained_db": part.explained_db,
        }
        for part in parts
    ]
    of_main = {"warnings": warnings, "gain": main.gain, "level_db": main.level_db, "explained_db": explained_db(parts)}
    return main.fit.values() | of_main | {"seconds": sum(part.fit.seconds for part in parts), "parts": each}


def shown_range(samples: np.ndarray) -> float:
    """The amplitude that almost all samples are within; beyond it a curve is a guess."""
    return float(np.quantile(np.abs(samples), _SHOWN))


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    return {"nldiff": __version__, "torch": torch.__version__, "python": platform.python_version()}
