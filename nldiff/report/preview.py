"""The preview of one restoration: a single page that shows and plays it in any browser, without a network."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from matplotlib.figure import Figure

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.figures.plots import draw, plot_spectrograms
from nldiff.figures.waveforms import plot_waveforms
from nldiff.metrics.loudness import loudness, normalise_loudness
from nldiff.report.pages import render, text_of
from nldiff.version import __version__
from nldiff.writing import atomic_path

LONGEST_SECONDS = 30.0
_LUFS = -23.0
_TOP_HZ = 8000.0
_DPI = 100
# Differences below this are rounding of the written files, dB relative to the recording.
_NOTHING_DB = -100.0


@dataclass(frozen=True)
class Track:
    """A player: its name, the address of its audio, None for silence, and a note."""

    name: str
    source: str | None
    note: str


@dataclass(frozen=True)
class Picture:
    """A picture: its title, address, and what it shows, for those who do not see it."""

    title: str
    source: str
    shows: str


@dataclass(frozen=True)
class Download:
    """A file to download: its name and address, and what it is."""

    name: str
    address: str
    content: str


def build_preview(
    original: Path,
    restored: Path,
    curve_picture: Path,
    report: Mapping[str, Any],
    page: Path,
    downloads: Sequence[Download] = (),
) -> None:
    """Write a page with players, pictures and the verdict; audio, pictures and everything else are inside.

    Original, restored signal and their difference are brought to one loudness (-23 LUFS, ITU-R BS.1770-4). The
    difference is what of the restored signal, at the level at which it is nearest, is missing in the original, or
    more in it. Of long recordings, the first 30 s are shown.

    Args:
        original: the recording, a file that libsndfile reads.
        restored: the restored file, same rate, channels and length.
        curve_picture: PNG file of the curve.
        report: what `nldiff restore` reports.
        page: HTML file, replaced completely or not at all.
        downloads: files that the page links to, if it has a place among others; of a page by itself, none.

    Raises:
        NldiffError: jinja2 is missing, a file cannot be read, or the page cannot be written.
    """
    rate = sound.probe(original).sample_rate
    shown = int(LONGEST_SECONDS * rate)
    signals = {"original": sound.read(original, 0, shown)[0], "restored": sound.read(restored, 0, shown)[0]}
    y, x = (signal.astype(np.float64) for signal in signals.values())
    signals["difference"] = (y - x * (np.sum(x * y) / max(np.sum(x * x), 1e-30))).astype(np.float32)
    frames = report["frames"]
    text = render(
        "preview.html",
        title=report["input"],
        tracks=[_track(name, signal, y, rate) for name, signal in signals.items()],
        pictures=_pictures(signals, rate, curve_picture),
        reasons=_reasons(report),
        finding=_finding(report),
        warnings=report["warnings"],
        downloads=downloads,
        lufs=f"−{abs(_LUFS):.0f}",
        excerpt=f"the first {LONGEST_SECONDS:.0f} s of {frames / rate:.0f} s" if frames > shown else "",
        css=text_of("page.css"),
        js=text_of("page.js"),
        version=__version__,
    )
    with atomic_path(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _track(name: str, signal: np.ndarray, original: np.ndarray, rate: int) -> Track:
    """Audio at the common loudness; the note says what had to be done to it."""
    power, reference = (float(np.mean(np.square(s, dtype=np.float64))) for s in (signal, original))
    if power <= reference * 10 ** (_NOTHING_DB / 10):
        return Track(name, None, "nothing: both are the same")
    try:
        levelled = normalise_loudness(signal, rate, _LUFS)
        note = "" if abs(loudness(levelled, rate) - _LUFS) < 0.1 else "quieter, for its peaks"
    except NldiffError:  # too short, or too quiet, for a loudness
        levelled, note = signal * (0.5 / np.max(np.abs(signal))), "peaks at half of full scale"
    if name == "difference":
        raised = 10 * np.log10(np.mean(np.square(levelled, dtype=np.float64)) / power)
        note = f"{'raised' if raised > 0 else 'lowered'} by {abs(raised):.0f} dB" + (f"; {note}" if note else "")
    data = io.BytesIO()
    sf.write(data, np.clip(levelled, -1, 1).T, rate, format="FLAC", subtype="PCM_16")
    return Track(name, _address("audio/flac", data.getvalue()), note)


def _pictures(signals: Mapping[str, np.ndarray], rate: int, curve_picture: Path) -> list[Picture]:
    first = {name: signal[0] for name, signal in signals.items()}
    channel = " of the first channel" if len(signals["original"]) > 1 else ""
    names = ", ".join(first)
    return [
        Picture("Transfer curve", _address("image/png", curve_picture.read_bytes()), "curve that was found"),
        Picture("Waveforms", _address("image/png", _png(plot_waveforms(first, rate))), f"{names}{channel}"),
        Picture(
            "Spectrograms",
            _address("image/png", _png(plot_spectrograms(first, rate, min(_TOP_HZ, rate / 2)))),
            f"{names}{channel}, up to {min(_TOP_HZ, rate / 2) / 1000:g} kHz",
        ),
    ]


def _finding(report: Mapping[str, Any]) -> str:
    if report["verdict"]:
        return str(report["verdict"]["finding"])
    return f"told: {report['known']}" if report["known"] else f"not judged (method {report['method']})"


def _reasons(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What verdict and result rest on: words and values."""
    verdict = report["verdict"]
    reasons = _evidence(verdict) if verdict else []
    if not (verdict and verdict["unchanged"]):  # of what comes back as it is, both would say nothing
        explained = "–" if report["explained_db"] is None else f"{report['explained_db']:.1f} dB"
        reasons += [
            ("The curve, applied to the restored signal, explains the recording to", explained),
            ("Restored up to", f"{report['restored_band_hz'] / 1000:g} kHz"),
        ]
    return [*reasons, ("Method, prior, seed", f"{report['method']}, {report['prior'] or 'none'}, {report['seed']}")]


def _evidence(verdict: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a verdict rests on, and the SI-SDR that it leads to expect."""
    if not (judged := verdict["judgement"]):
        return [("Signs of a distortion", "none")]
    reasons = [
        ("Probability that the restored signal is nearer to the clean one", f"{100 * judged['confidence']:.0f} %"),
        ("More predictable than the recording, by", f"{judged['predictability_gain']:+.3f} nats"),
        ("Sparser than the recording, by", f"{judged['spread_gain']:+.3f} nats"),
        ("Samples of the recording on a plateau", f"{100 * judged['plateau']:.1f} %"),
    ]
    if verdict["unchanged"]:
        reasons.insert(0, ("Best hypothesis, which is not believed", verdict["hypothesis"]))
    if expected := verdict["expected_sdr_db"]:
        bounds = f"{expected['low']:.0f} to {expected['high']:.0f} dB in nine of ten cases"
        reasons.append(("Expected SI-SDR", f"{expected['middle']:.0f} dB; {bounds}"))
    return reasons


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    draw(figure, data, format="png", dpi=_DPI)
    return data.getvalue()
