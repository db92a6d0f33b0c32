"""`nldiff restore --samples --spread`: how many restorations, and what becomes of several of one input."""

import argparse
from pathlib import Path
from typing import Any

from nldiff.errors import NldiffError
from nldiff.restoration.draws import SAMPLES


def number_of_samples(options: argparse.Namespace) -> int:
    """How many restorations of every input are asked for.

    Raises:
        NldiffError: none, or a single one with `--spread`.
    """
    if options.samples is None:
        return SAMPLES if options.spread else 1
    if options.samples < 1:
        raise NldiffError(f"--samples {options.samples}: at least 1 expected")
    if options.spread and options.samples < 2:
        raise NldiffError(f"--samples {options.samples}: at least 2 expected with --spread")
    return int(options.samples)


def why_several(options: argparse.Namespace) -> str:
    """The options that ask for several restorations, for messages."""
    return "--spread" if options.spread else f"--samples {options.samples}"


def spread_summary(folder: Path, report: dict[str, Any]) -> str:
    """What is said of a spread, in one line."""
    decibels = report["overall_spread_db"]
    size = f"{decibels:.1f} dB relative to the mean" if decibels > -300 else "0"
    return f"spread of {len(report['seeds'])} draws: {size} -> {folder / report['mean']}, {report['spread']}"
