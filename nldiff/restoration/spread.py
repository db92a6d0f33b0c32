"""Files of the mean and the spread of several restorations of one recording."""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.restoration.draws import Draw, levelled, mean_and_spread, relative_db
from nldiff.restoration.output import Restored, read_file
from nldiff.restoration.result import versions
from nldiff.sound.recording import Recording
from nldiff.writing import replace_after_report, scratch_folder, write_json

SPREAD_REPORT = ".spread.json"
"""End of the name of the report; it comes first and goes last, so that mean and spread never stand without it."""
_SAME = "all draws are the same: nothing was left open that the prior could fill in, right or wrong"


def spread_paths(folder: Path, stem: str, audio_format: sound.AudioFormat) -> list[Path]:
    """The three files that `FileDraws.write` writes: mean, spread and report."""
    suffix = audio_format.suffix
    return [folder / f"{stem}{end}" for end in (f".mean{suffix}", f".spread{suffix}", SPREAD_REPORT)]


def earlier_spread(folder: Path, stem: str) -> list[Path]:
    """Files of an earlier spread, whatever their format; the report is the last. Without a report there is none."""
    report = folder / f"{stem}{SPREAD_REPORT}"
    if not report.is_file():
        return []
    try:
        content = json.loads(report.read_bytes())
    except ValueError:  # damaged
        content = None
    named = [content.get("mean"), content.get("spread")] if isinstance(content, dict) else []
    possible = [path for name in sound.FORMATS for path in spread_paths(folder, stem, sound.AudioFormat(name, "24"))]
    return [path for path in possible if path.name in named] + [report]


@dataclass
class FileDraws:
    """The draws of one file, as `restore_file` gives them to `keep`, one after the other.

    Attributes:
        scratch: folder for what the draws leave, in the file system of the results; about as much as the results have.
    """

    scratch: Path
    _kept: list[Restored] = field(default_factory=list)

    def keep(self, restored: Restored) -> None:
        """Take over the files of a draw."""
        number = len(self._kept)
        raws = [raw.replace(self.scratch / f"{number}.{raw.name}") for raw in restored.raws]
        self._kept.append(dataclasses.replace(restored, raws=raws))

    def write(self, source: Path, folder: Path, stem: str, audio_format: sound.AudioFormat) -> dict[str, Any]:
        """Write STEM.mean.wav, STEM.spread.wav and STEM.spread.json.

        They replace earlier ones: nothing is there beside a report of another version, or without one.
        Mean and standard deviation are those of every sample, over at least two draws, in pieces that fit in memory.

        Args:
            source: the recording, whose name is in the report.
            folder: where the files go.
            stem: how their names begin.
            audio_format: of both audio files.

        Returns:
            The report.

        Raises:
            NldiffError: a file cannot be written.
        """
        results = spread_paths(folder, stem, audio_format)
        for path in results:
            if path.is_dir():
                raise NldiffError(f"{path} is a folder: it is in the way of a result")
        first = self._kept[0]
        recording = first.job.recording
        with scratch_folder(folder) as scratch:
            written = [scratch / path.name for path in results]
            found = self._write_audio(written[0], written[1], recording, audio_format)
            report = {
                "input": source.name,
                "sample_rate": recording.sample_rate,
                "channels": recording.channels,
                "frames": recording.frames,
                "method": first.method,
                "seeds": [one.job.config.seed for one in self._kept],
                "mean": results[0].name,
                "spread": results[1].name,
                "format": dataclasses.asdict(audio_format),
                "versions": versions(),
                **found,
            }
            write_json(written[2], report)
            replace_after_report(written[2], written[:2], folder, earlier_spread(folder, stem))
        return report

    def _write_audio(
        self, mean_path: Path, spread_path: Path, recording: Recording, form: sound.AudioFormat
    ) -> dict[str, Any]:
        """Write both audio files; returns what the report says of them."""
        read, level_db = levelled(
            [Draw(one.parts, [partial(read_file, raw) for raw in one.raws]) for one in self._kept]
        )
        channels, metadata = recording.channels, self._kept[0].metadata
        powers = np.zeros((2, channels))
        with (
            sound.audio_writer(mean_path, recording.sample_rate, channels, form, metadata.tags) as mean_writer,
            # Dither would make deviations negative, and others than 0 where the draws agree.
            sound.audio_writer(spread_path, recording.sample_rate, channels, form, dither=False) as spread_writer,
        ):
            for block in recording.blocks():
                mean, spread = mean_and_spread(read(*block))
                powers += [np.sum(each**2, axis=1) for each in (mean, spread)]
                mean_writer.write(mean)
                spread_writer.write(spread)
        if form.container == "wav":
            sound.append_chunks(mean_path, metadata.chunks)
        rms_mean, rms_spread = np.sqrt(powers / recording.frames)
        clipped = mean_writer.clipped + spread_writer.clipped
        unchanged = all(part.fit.unchanged for part in self._kept[0].parts)
        warnings = [_SAME] if not rms_spread.any() and not unchanged else []
        warnings += [f"{clipped} samples were beyond full scale and are clipped"] if clipped else []
        whole = [float(np.sqrt(np.mean(each**2))) for each in (rms_spread, rms_mean)]
        return {
            "level_db": level_db,
            "spread_rms": rms_spread.tolist(),
            "spread_db": [relative_db(*each) for each in zip(rms_spread, rms_mean, strict=True)],
            "overall_spread_db": relative_db(*whole),
            "clipped_samples": clipped,
            "warnings": warnings,
        }
