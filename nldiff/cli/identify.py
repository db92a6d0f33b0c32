"""`nldiff identify`: the device between a clean and a distorted recording."""

import argparse
from pathlib import Path

from nldiff.cli.terminal import complain
from nldiff.identification.model import ALIASES
from nldiff.identification.output import identify_files

# Error-to-signal ratio above which the device is another one, or the recordings have nothing to do with each other.
_LITTLE_DB = -3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("clean", type=Path, metavar="CLEAN", help="recording of what entered the device")
    add("observed", type=Path, metavar="OBSERVED", help="recording of what came out, of the same performance")
    add(
        "--operator", default="wiener_hammerstein", metavar="TEXT",
        help=f"what the device is made of: curve (any curve), {', '.join(ALIASES)} (filters, curve, filters), or names "
        "as of --known, joined by ' > ', such as 'hard_clip > highpass'; parameters that are not given are fitted "
        "(default: wiener_hammerstein)",
    )  # fmt: skip
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("identified"),
        metavar="FOLDER",
        help="of results (default: identified)",
    )
    add("--seed", type=int, default=0, metavar="S", help="seed of the first values that are tried (default: 0)")
    add("--quiet", action="store_true", help="no summary")


def run(options: argparse.Namespace) -> int:
    """Identify the device, write the results, and say how well it explains the recording."""
    written = identify_files(options.clean, options.observed, options.output, options.operator, seed=options.seed)
    found = written.found
    if max(found.esr_db, found.held_out_esr_db) > _LITTLE_DB:
        complain("warning", f"{options.observed}: little of it is explained: another device, or another performance?")
    if not options.quiet:
        print(f"{options.clean}, {options.observed} -> {written.operator}")
        print(f"  error-to-signal ratio {found.esr_db:.1f} dB, held out {found.held_out_esr_db:.1f} dB")
        print(f"  the observed recording is {found.delay:.2f} samples late")
    return 0
