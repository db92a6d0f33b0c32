"""Restore a mixed set of recordings, of which most are not what a restorer would choose, and report it by kind.

Every recording is made from a clip of a corpus: at most SECONDS of it from 0.3 s on, at an RMS of 0.06, then distorted
as its kind says. Clean kinds are to come back unchanged; no other may get worse without a warning.
"""

import argparse
import dataclasses
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
import soxr
import torch

import nldiff
from nldiff.metrics import si_sdr
from nldiff.operators import parse_operator
from nldiff.priors.choice import load_candidates
from nldiff.restoration.result import part_values
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound.files import find_audio

Make = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray, int]]
"""A clean clip [time] and its rate -> clean signal and recording, [channels, time], and their rate."""

_RMS, _OFFSET = 0.06, 0.3


def distorted(text: str) -> Make:
    """A known distortion."""

    def make(x: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, int]:
        tensor = torch.from_numpy(x[None])
        return x[None], parse_operator(text).build(tensor)(tensor).numpy(), rate

    return make


def resampled_first(rate_hz: int, then: str | None) -> Make:
    """At another sampling rate."""

    def make(x: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, int]:
        x = soxr.resample(x, rate, rate_hz).astype(np.float32)
        return distorted(then)(x, rate_hz) if then else (x[None], x[None], rate_hz)

    return make


def changed(change: Callable[[np.ndarray, int], np.ndarray], then: str | None = None) -> Make:
    """Changed beforehand, so that the change belongs to the clean signal."""

    def make(x: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, int]:
        x = change(x, rate).astype(np.float32)
        return distorted(then)(x, rate) if then else (x[None], x[None], rate)

    return make


def followed(first: str, change: Callable[[np.ndarray, int], np.ndarray]) -> Make:
    """Distorted, then changed."""

    def make(x: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, int]:
        _, y, _ = distorted(first)(x, rate)
        return x[None], np.stack([change(channel, rate) for channel in y]).astype(np.float32), rate

    return make


def short(then: str | None) -> Make:
    """Half a second around the loudest sample."""

    def cut(x: np.ndarray, rate: int) -> np.ndarray:
        start = int(np.clip(np.argmax(np.abs(x)) - rate // 4, 0, max(0, len(x) - rate // 2)))
        return x[start : start + rate // 2]

    return changed(cut, then)


def channels(*texts: str | None) -> Make:
    """Two channels, the second one 3 dB softer, each distorted on its own."""

    def make(x: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, int]:
        clean = np.stack([x, np.float32(0.7) * np.roll(x, rate // 100)])
        y = [
            distorted(text)(channel, rate)[1][0] if text else channel
            for text, channel in zip(texts, clean, strict=True)
        ]
        return clean, np.stack(y), rate

    return make


def noisy(db: float) -> Callable[[np.ndarray, int], np.ndarray]:
    """White noise so far below."""
    return lambda x, rate: x + np.random.default_rng(len(x)).standard_normal(len(x)) * x.std() * 10 ** (-db / 20)


def mp3(x: np.ndarray, rate: int) -> np.ndarray:
    """MP3 at 192 kbit/s and back, by ffmpeg."""
    with tempfile.TemporaryDirectory() as folder:
        wav, coded, back = (Path(folder) / name for name in ("a.wav", "a.mp3", "b.wav"))
        sf.write(wav, x, rate, subtype="FLOAT")
        for source, goal in ((wav, coded), (coded, back)):
            options = ["-b:a", "192k"] if goal == coded else ["-c:a", "pcm_f32le"]
            subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, goal], check=True)
        y = sf.read(back, dtype="float32")[0]
        return np.pad(y, (0, max(0, len(x) - len(y))))[: len(x)]


def there_and_back(x: np.ndarray, rate: int) -> np.ndarray:
    """To 48 kHz and back."""
    return np.resize(soxr.resample(soxr.resample(x, rate, 48000), 48000, rate), len(x))


CLEAN: dict[str, Make] = {
    "clean": changed(lambda x, rate: x),
    "clean, 8 kHz": resampled_first(8000, None),
    "clean, 48 kHz": resampled_first(48000, None),
    "clean, constant 0.1": changed(lambda x, rate: x + 0.1),
    "clean, -60 dB": changed(lambda x, rate: x * 0.001),
    "clean, noise -40 dB": changed(noisy(40)),
    "clean, 0.5 s": short(None),
    "clean, MP3": changed(mp3),
    "clean, stereo": channels(None, None),
}
DISTORTED: dict[str, Make] = {
    **{
        f"{kind} {sdr} dB": distorted(f"{kind}:sdr={sdr}")
        for kind in ("hard_clip", "soft_clip")
        for sdr in (1, 3, 7, 15)
    },
    "half_wave": distorted("half_wave"),
    "quantize": distorted("quantize:step=0.06"),
    "carbon_mic": distorted("carbon_mic:asymmetry=0.5,gain=2"),
    "wavefold": distorted("wavefold:threshold=0.1"),
    "overdrive 20 dB": distorted("overdrive:gain_db=20,colour=20"),
    "overdrive 35 dB": distorted("overdrive:gain_db=35,colour=20"),
    "hard_clip 3 dB, 0.5 s": short("hard_clip:sdr=3"),
    "hard_clip 3 dB, 8 kHz": resampled_first(8000, "hard_clip:sdr=3"),
    "hard_clip 3 dB, 48 kHz": resampled_first(48000, "hard_clip:sdr=3"),
    "hard_clip 3 dB, stereo": channels("hard_clip:sdr=3", "hard_clip:sdr=3"),
    "hard_clip 3 and 7 dB, stereo": channels("hard_clip:sdr=3", "hard_clip:sdr=7"),
    "hard_clip 3 dB, one of two": channels("hard_clip:sdr=3", None),
    "hard_clip 3 dB > highpass 20 Hz": distorted("hard_clip:sdr=3 > highpass:hz=20"),
    "hard_clip 3 dB > noise -50 dB": followed("hard_clip:sdr=3", noisy(50)),
    "hard_clip 3 dB > noise -35 dB": followed("hard_clip:sdr=3", noisy(35)),
    "hard_clip 3 dB > MP3": followed("hard_clip:sdr=3", mp3),
    "hard_clip 3 dB > resampled": followed("hard_clip:sdr=3", there_and_back),
    "soft_clip 7 dB > noise -40 dB": followed("soft_clip:sdr=7", noisy(40)),
    "hard_clip 3 dB > constant 0.1": followed("hard_clip:sdr=3", lambda x, rate: x + 0.1),
}


def measure(kind: str, clip: Path, seconds: float, config: RestoreConfig, priors: list) -> dict:
    """Restore one recording of a kind: a row of the results."""
    x, rate = sf.read(clip, dtype="float32", always_2d=True)
    x = x[:, 0][int(_OFFSET * rate) :][: int(seconds * rate)]
    x *= np.float32(_RMS) / np.sqrt(np.mean(x**2))
    clean, recording, rate = {**CLEAN, **DISTORTED}[kind](x, rate)
    start = time.process_time()
    result = nldiff.restore(recording, rate, priors, config=config)
    spent = time.process_time() - start
    before, after = _scores(clean, recording), _scores(clean, result.audio)
    verdicts = [part.fit.sampling.verdict if part.fit.sampling else None for part in result.parts]
    return {
        "kind": kind,
        "clip": clip.name,
        "before": before,
        "after": after,
        "findings": [verdict.finding if verdict else None for verdict in verdicts],
        "hypotheses": [verdict.hypothesis if verdict else None for verdict in verdicts],
        "judgements": [dataclasses.asdict(v.judgement) if v and v.judgement else None for v in verdicts],
        "believed": _scores(result.audio, recording),
        "log_odds": [verdict.log_odds if verdict else None for verdict in verdicts],
        "warnings": part_values(result.parts)["warnings"],
        "identical": float(np.abs(result.audio - recording).max() / np.abs(recording).max()) < 1e-6,
        "seconds": spent,
        "clean": kind in CLEAN,
    }


def _scores(clean: np.ndarray, audio: np.ndarray) -> list[float]:
    """SI-SDR of every channel without its mean, dB; up to 150."""
    scores = []
    for x, y in zip(clean, audio, strict=True):
        scores.append(min(150.0, float(si_sdr(x - x.mean(), y - y.mean()))))
    return scores


def table(rows: list[dict]) -> str:
    """By kind: number of channels, SI-SDR, how many came back unchanged, and how many worse without a warning."""
    lines = [
        "| kind | channels | before | after | worst gain | unchanged | worse without a warning | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        before, after = (np.concatenate([row[key] for row in own]) for key in ("before", "after"))
        worse = sum(min(np.subtract(row["after"], row["before"])) < -0.5 and not row["warnings"] for row in own)
        unchanged, seconds = sum(row["identical"] for row in own), np.median([row["seconds"] for row in own])
        cells = [
            kind, len(before), f"{np.median(before):.1f}", f"{np.median(after):.1f}", f"{np.min(after - before):+.1f}",
            f"{unchanged} of {len(own)}", worse, f"{seconds:.0f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="folders of clean clips")
    parser.add_argument(
        "--files", type=int, default=7, help="clips of every folder, evenly spaced (default %(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="longest recording (default %(default)s)")
    parser.add_argument("--kinds", nargs="+", default=[*CLEAN, *DISTORTED], help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--results", type=Path, required=True, help="a line of JSON per recording; those there are kept"
    )
    arguments = parser.parse_args()
    path = arguments.results
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(row["kind"], row["clip"]) for row in rows}
    priors = load_candidates("auto", torch.device("cpu"))
    config = RestoreConfig(device="cpu", seed=arguments.seed)
    clips = []
    for folder in arguments.clips:
        files = find_audio([folder])
        clips += files[:: max(1, len(files) // arguments.files)][: arguments.files]
    for clip in clips:
        for kind in arguments.kinds:
            if (kind, clip.name) not in done:
                rows.append(measure(kind, clip, arguments.seconds, config, priors))
                with path.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print(table([row for row in rows if row["kind"] in arguments.kinds]))


if __name__ == "__main__":
    main()
