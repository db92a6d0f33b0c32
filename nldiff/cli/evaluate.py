"""`nldiff evaluate`."""

import argparse
import os
import sys
from pathlib import Path

from tqdm import tqdm

from nldiff.cli.bars import resume_bar
from nldiff.cli.terminal import complain, one_line
from nldiff.config import find_config, shipped_configs
from nldiff.evaluation import evaluate, load_experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    names = ", ".join(shipped_configs("eval"))
    parser.add_argument("config", metavar="CONFIG", help=f"{names}, or a YAML file")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of clean clips instead of the CONFIG's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: out/eval/CONFIG)")
    parser.add_argument("--smoke", action="store_true", help="a few quick cells, to see that all works")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the configuration")


def run(options: argparse.Namespace) -> int:
    """Run the experiment that the configuration describes."""
    path = find_config(options.config, "eval")
    config = load_experiment(path, options.data, options.smoke, options.overrides)
    folder = options.out or Path("out/eval") / (path.stem + ("-smoke" if options.smoke else ""))
    # torchrun starts this in every process; only one of them prints.
    talks = os.environ.get("RANK", "0") == "0"
    with tqdm(unit="cell", disable=options.quiet or not talks, delay=1e-3, dynamic_ncols=True) as bar:

        def on_progress(done: int, total: int) -> None:
            if bar.total is None:
                bar.total = total
                resume_bar(bar, done)
            bar.update(done - bar.n)

        def warn(message: str) -> None:
            if talks:
                tqdm.write(f"warning: {one_line(message)}", file=sys.stderr)

        outcome = evaluate(config, folder, on_progress, warn)
    if outcome and outcome.failed:
        complain("warning", f"{outcome.failed} of {outcome.cells} cells failed: see summary.md")
    if outcome and not options.quiet:
        print(one_line(folder / "summary.md"))
    return 0
