"""`nldiff apply`: other audio through a curve or an operator that was found."""

import argparse
import sys
from pathlib import Path

import numpy as np

from nldiff import sound
from nldiff.cli.destinations import (
    PIPE,
    Destination,
    Source,
    add_output_arguments,
    chosen_format,
    find_sources,
    messages,
    plan_destinations,
    refuse_overwriting,
    scratch_files,
    send,
)
from nldiff.cli.terminal import complain
from nldiff.curves import Curve
from nldiff.curves.antialiasing import ANTIALIASING, FACTOR, distorted_pieces
from nldiff.curves.applied_operators import operator_pieces
from nldiff.errors import NldiffError
from nldiff.operators import Operator, load_operator
from nldiff.writing import atomic_path

# Share of samples beyond the ends of the curve that is worth a warning.
_WORTH_A_WARNING = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add(
        "device", type=Path, metavar="DEVICE",
        help="table that 'nldiff restore' or Curve.save wrote: NAME.curve.csv; or operator that 'nldiff identify' or "
        "save_operator wrote: NAME.operator.json",
    )  # fmt: skip
    add("inputs", nargs="+", metavar="INPUT", help="audio file, video, folder, or - for standard input")
    add_output_arguments(parser, "distorted")
    add(
        "--antialias", choices=ANTIALIASING, default="oversampling",
        help=f"oversampling: at {FACTOR} times the rate; adaa: means along the way between samples as well, for still "
        "less aliasing; none: samples are looked up (default: oversampling). Filters run at INPUT's rate",
    )  # fmt: skip
    add(
        "--gain", type=float, default=0.0, metavar="DB",
        help="before the device, which was found at the level of the clean or restored recording: how hard it is "
        "driven (default: 0)",
    )  # fmt: skip
    add("--output-gain", type=float, default=0.0, metavar="DB", help="behind the device (default: 0)")
    add("--quiet", action="store_true", help="no summary")


def run(options: argparse.Namespace) -> int:
    """Distort every input. A bad one is reported, and the others are distorted all the same."""
    for name in ("gain", "output_gain"):
        if not abs(getattr(options, name)) <= 200:
            raise NldiffError(f"--{name.replace('_', '-')} {getattr(options, name)}: -200 to 200 (dB) expected")
    device = _load(options.device)
    with messages(options.verbose), scratch_files() as scratch:
        form = chosen_format(options)
        sources = find_sources(options.inputs, scratch, ".distorted")
        destinations = plan_destinations(sources, options.output, scratch)
        results = [to.folder / _name(to, form) for to in destinations]
        refuse_overwriting(results, sources)
        failed = 0
        for source, result in zip(sources, results, strict=True):
            if options.skip_existing and result.is_file():
                continue
            try:
                _apply_one(device, source, result, options, form)
            except NldiffError as error:
                source.complain(error)
                failed = 1
        return failed


def _load(path: Path) -> Curve | Operator:
    """An operator if the name says so, else a curve."""
    return load_operator(path) if path.suffix.lower() == ".json" else Curve.load(path)


def _name(to: Destination, form: sound.AudioFormat) -> str:
    return to.audio_name or f"{to.stem}.distorted{form.suffix}"


def _apply_one(
    device: Curve | Operator, source: Source, result: Path, options: argparse.Namespace, form: sound.AudioFormat
) -> None:
    """Distort one file, with a summary on the levels."""
    gain, output_gain = 10 ** (options.gain / 20), 10 ** (options.output_gain / 20)
    beyond, peak = 0, 0.0
    quietly = np.errstate(over="ignore", invalid="ignore")  # what comes of it is refused
    with sound.readable(source.path) as path, atomic_path(result) as temporary, quietly:
        info, metadata = sound.probe(path), sound.read_metadata(path)

        def read(start: int, frames: int) -> np.ndarray:
            return sound.read(path, start, frames)[0].astype(np.float64) * gain

        with sound.audio_writer(temporary, info.sample_rate, info.channels, form, metadata.tags) as writer:
            start = 0
            if isinstance(device, Curve):
                pieces = distorted_pieces(device, read, info.frames, options.antialias)
            else:
                pieces = operator_pieces(device, read, info.frames, info.sample_rate, options.antialias)
            for piece in pieces:
                x = read(start, piece.shape[1])
                if isinstance(device, Curve):
                    beyond += int(np.count_nonzero((x < device.inputs[0]) | (x > device.inputs[-1])))
                peak = max(peak, float(np.abs(x).max(initial=0.0)))
                written = piece * np.float32(output_gain)
                if not np.isfinite(written).all():
                    raise NldiffError("what comes out of the device is beyond the numbers of audio files")
                writer.write(written)
                start += piece.shape[1]
        if form.container == "wav":
            sound.append_chunks(temporary, metadata.chunks)
    share, samples = beyond / (info.frames * info.channels), info.frames * info.channels
    if share > _WORTH_A_WARNING:
        lost = f"{100 * share:.2g} % of the samples are beyond the curve, where it is flat: --gain lowers them"
        complain("warning", f"{source.shown}: {lost}")
    if writer.clipped:
        clipped = f"{writer.clipped} of {samples} samples were beyond full scale and are clipped"
        complain("warning", f"{source.shown}: {clipped}")
    if not options.quiet:
        reach = f"; the curve reaches {device.inputs[-1]:.3f}" if isinstance(device, Curve) else ""
        text = f"{source.shown} -> {result}\n  input peak {peak:.3f}{reach}"
        print(text, file=sys.stderr if options.output == PIPE else sys.stdout)
    if options.output == PIPE:
        send(result)
