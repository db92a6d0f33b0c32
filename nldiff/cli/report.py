"""`nldiff report`."""

import argparse
from pathlib import Path

from nldiff.report import build_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder that 'nldiff evaluate' wrote")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the page (default: RUN_DIR/report)")
    parser.add_argument("--lufs", type=float, default=-23.0, help="loudness of the examples, LUFS (default: -23)")


def run(options: argparse.Namespace) -> int:
    """Build the listening page of a run."""
    print(build_report(options.run, options.out, options.lufs))
    return 0
