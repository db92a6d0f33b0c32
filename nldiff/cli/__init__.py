"""Command line: `nldiff restore` (also `infer.py`), `diagnose`, `identify`, `apply`, `evaluate` and others.

Every command has a module of its own, imported when the command is called: help and a misspelt command need not wait
for PyTorch. May import everything; only `nldiff.__main__` and scripts import it.
"""

import argparse
import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from nldiff.cli.terminal import complain, lasting_streams, private_folder
from nldiff.errors import NldiffError
from nldiff.interrupts import Ended, cleaned_up
from nldiff.version import __version__

_FAILED, _INTERRUPTED = 1, 130
_M_ARENA_MAX = -8  # of malloc.h


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        module: module with `add_arguments(parser)` and `run(options) -> exit code`.
        purpose: one sentence for `--help`.
        intermixed: options and other arguments come in any order.
    """

    module: str
    purpose: str
    intermixed: bool = True


COMMANDS = {
    "restore": Command("nldiff.cli.restore", "Restore distorted recordings."),
    "diagnose": Command("nldiff.cli.diagnose", "Say in seconds what was done to recordings, without restoring them."),
    "identify": Command("nldiff.cli.identify", "Find the device between a clean and a distorted recording."),
    "app": Command("nldiff.cli.app", "Restore recordings on a web page of this machine."),
    "apply": Command("nldiff.cli.apply", "Distort other audio by a curve or an operator that was found."),
    "export": Command("nldiff.cli.export", "Write a curve for another program.", intermixed=False),
    "train": Command("nldiff.cli.train", "Train a prior on clean audio."),
    "train-baseline": Command("nldiff.cli.train_baseline", "Train a comparison network on distorted and clean audio."),
    "evaluate": Command("nldiff.cli.evaluate", "Run an experiment."),
    "report": Command("nldiff.cli.report", "Build the listening page of an experiment.", intermixed=False),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `nldiff` command; returns the exit code: 0 done, 1 failed, 130 interrupted, 143 and 129 ended.

    Raises:
        SystemExit: after help and version (code 0) and for wrong usage (code 2).
    """
    parser = argparse.ArgumentParser(
        prog="nldiff",
        description="Recover the clean signal and the transfer curve from a distorted recording.",
        epilog="commands:\n"
        + "".join(f"  {name:<16}{command.purpose}\n" for name, command in COMMANDS.items())
        + "\n'nldiff COMMAND --help' shows the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nldiff {__version__}")
    parser.add_argument(
        "command",
        choices=COMMANDS,
        metavar="COMMAND",
        help="one of those below",
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return run_command(options.command, options.rest, f"nldiff {options.command}")


def run_command(name: str, arguments: Sequence[str] | None, prog: str) -> int:
    """Parse the arguments of a command and run it. Every problem is one line on stderr.

    Args:
        name: key of `COMMANDS`.
        arguments: without the name of the program; None takes those of the process.
        prog: name of the program in its help.

    Returns:
        The exit code, as `main`.
    """
    # Idle threads of GNU OpenMP spin for milliseconds. If another program runs too, they take the processor from the
    # threads that they wait for. The library reads the variable when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    _share_heap()
    command = COMMANDS[name]
    with lasting_streams():
        try:
            with cleaned_up():
                # Otherwise matplotlib would write a list of fonts to the home folder, and PyTorch a folder of its own.
                for place in {"MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"} - os.environ.keys():
                    os.environ[place] = str(private_folder())
                module = import_module(command.module)
                parser = argparse.ArgumentParser(prog=prog, description=command.purpose, allow_abbrev=False)
                module.add_arguments(parser)
                options = (parser.parse_intermixed_args if command.intermixed else parser.parse_args)(arguments)
                return module.run(options)
        except (NldiffError, OSError) as error:  # messages of the system name the file too
            complain("error", error)
            return _FAILED
        except Ended as end:
            print(f"ended by {end}", file=sys.stderr)
            return end.code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            # CPython ends `python -m` by the signal if Ctrl-C met text that was executed, as where dataclasses are
            # made, though it was caught. This makes it forget that.
            eval("None")
            return _INTERRUPTED


def _share_heap() -> None:
    """Let threads use memory that others have freed, where the allocator is that of glibc: a sixth less is needed.

    By default it gives threads heaps of their own.
    """
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    except (AttributeError, OSError, TypeError):
        return  # another allocator or system
