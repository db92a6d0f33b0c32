"""Arguments and progress bar that all trainings share."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from nldiff.cli.bars import resume_bar
from nldiff.config import find_config, load_config, shipped_configs
from nldiff.training.loop import LoopConfig, StepReport

_Config = TypeVar("_Config", bound=LoopConfig)


def add_training_arguments(parser: argparse.ArgumentParser, kind: str) -> None:
    """Add the arguments of a training; `kind` is that of its configurations, see `nldiff.config.find_config`."""
    names = ", ".join(shipped_configs(kind))
    parser.set_defaults(kind=kind)
    parser.add_argument("--config", required=True, metavar="CONFIG", help=f"{names}, or a YAML file")
    parser.add_argument("--resume", action="store_true", help="continue the run in run_dir")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the configuration")


def run_training(
    options: argparse.Namespace,
    schema: type[_Config],
    training: Callable[[_Config, bool, Callable[[StepReport], None]], Path],
) -> int:
    """Run a training with a progress bar.

    Args:
        options: parsed arguments, see `add_training_arguments`.
        schema: class of the configuration.
        training: (configuration, resume, on_step) -> path of the result.

    Returns:
        The exit code.
    """
    config = load_config(schema, find_config(options.config, options.kind), options.overrides)
    # torchrun starts this in every process; only one of them prints.
    quiet = options.quiet or os.environ.get("RANK", "0") != "0"
    with tqdm(total=config.steps, unit="step", disable=quiet, dynamic_ncols=True) as bar:

        def on_step(report: StepReport) -> None:
            if bar.n == 0:
                resume_bar(bar, report.step - 1)
            bar.set_postfix(loss=f"{report.loss:.3f}", refresh=False)
            bar.update()

        path = training(config, options.resume, on_step)
    if not quiet:
        print(path)
    return 0
