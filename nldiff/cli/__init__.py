"""Command line: `nldiff restore` (also `infer.py`), `train`, `train-baseline`, `evaluate` and `report`.

One module a command, imported when the command is called: help and mistakes in the command's name need not wait for
PyTorch. May import everything; nothing imports it.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from nldiff.errors import NldiffError
from nldiff.version import __version__

_FAILED, _INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Command:
    """A command: its module, which has `add_arguments(parser)` and `run(options) -> exit code`, and its purpose.

    `intermixed` commands take options and other arguments in any order.
    """

    module: str
    purpose: str
    intermixed: bool = True


COMMANDS = {
    "restore": Command("nldiff.cli.restore", "Restore distorted recordings."),
    "train": Command("nldiff.cli.train", "Train a prior on clean audio."),
    "train-baseline": Command("nldiff.cli.train_baseline", "Train a comparison network on distorted and clean audio."),
    "evaluate": Command("nldiff.cli.evaluate", "Run an experiment."),
    "report": Command("nldiff.cli.report", "Build the listening page of an experiment.", intermixed=False),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `nldiff` command; returns the exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    parser = argparse.ArgumentParser(
        prog="nldiff",
        description="Recover the clean signal and the transfer curve from a distorted recording.",
        epilog="'nldiff COMMAND --help' shows the options of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nldiff {__version__}")
    parser.add_argument(
        "command",
        choices=COMMANDS,
        help="restore recordings, train a prior or a comparison network, run an experiment, build its listening page",
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return run_command(options.command, options.rest, f"nldiff {options.command}")


def run_command(name: str, arguments: Sequence[str] | None, prog: str) -> int:
    """Parse the arguments of a command and run it; returns the exit code. Every problem is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text in any encoding
    # Idle threads of GNU OpenMP spin for milliseconds, which takes the processor from those that they wait for if
    # another program runs too. Read when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    command = COMMANDS[name]
    module = import_module(command.module)
    parser = argparse.ArgumentParser(prog=prog, description=command.purpose, allow_abbrev=False)
    module.add_arguments(parser)
    options = (parser.parse_intermixed_args if command.intermixed else parser.parse_args)(arguments)
    try:
        return module.run(options)
    except (NldiffError, OSError) as error:  # what the operating system says names the file too
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
