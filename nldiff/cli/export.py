"""`nldiff export`: a curve for another program."""

import argparse
from pathlib import Path

from nldiff.curves import Curve
from nldiff.curves.export import EXPORTS, export_curve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    kinds = "; ".join(f"{kind}: {export.purpose}" for kind, export in EXPORTS.items())
    parser.add_argument("curve", type=Path, metavar="CURVE", help="table that 'nldiff restore' or Curve.save wrote")
    parser.add_argument("--to", choices=EXPORTS, required=True, metavar="KIND", help=kinds)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="file (default: CURVE with the suffix of the kind)"
    )


def run(options: argparse.Namespace) -> int:
    """Write the file."""
    path = options.output or options.curve.with_suffix(EXPORTS[options.to].suffix)
    export_curve(Curve.load(options.curve), path, options.to)
    print(path)
    return 0
