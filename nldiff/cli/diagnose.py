"""`nldiff diagnose`: what was done to recordings, without restoring them."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from nldiff import sound
from nldiff.cli.destinations import Source, find_sources, scratch_files
from nldiff.cli.terminal import one_line
from nldiff.config import load_config
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.priors import SHIPPED
from nldiff.priors.choice import load_candidates
from nldiff.restoration.diagnosis import Diagnosis, diagnose
from nldiff.restoration.parts import channel_names
from nldiff.restoration.settings import RestoreConfig, check_config
from nldiff.sound.recording import Recording
from nldiff.writing import json_values


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file, video, folder, or - for standard input; key=value changes any setting",
    )
    add("--prior", help=f"{', '.join(SHIPPED)}, a prior file, or auto (default: auto)")
    add("-d", "--device", help="auto (CUDA or the CPU), cpu, cuda, cuda:N or mps (default: auto)")
    add("--json", action="store_true", help="one JSON object for every file, a line each, instead of text")


def run(options: argparse.Namespace) -> int:
    """Diagnose every input. A bad one is reported, and the others are diagnosed all the same."""
    overrides = [text for text in options.inputs if "=" in text and not Path(text).exists()]
    with scratch_files() as scratch:
        sources = find_sources([text for text in options.inputs if text not in overrides], scratch, ".restored")
        if not sources:
            raise NldiffError("no INPUT given: an audio file or a folder expected")
        config = load_config(RestoreConfig, None, overrides)
        config = replace(config, prior=options.prior or config.prior, device=options.device or config.device)
        check_config(config)
        priors = load_candidates(config.prior, choose_device(config.device))
        failed = 0
        for source in sources:
            try:
                with sound.readable(source.path) as path:
                    found = diagnose(Recording.from_file(path), priors, config)
            except NldiffError as error:
                source.complain(error)
                failed = 1
            else:
                print(_json(source, found) if options.json else _text(source, found))
    return failed


def _json(source: Source, found: list[Diagnosis]) -> str:
    return json.dumps(json_values({"input": source.shown, "parts": [each.values() for each in found]}), allow_nan=False)


def _text(source: Source, found: list[Diagnosis]) -> str:
    lines = [one_line(source.shown)]
    for each in found:
        where = f"{channel_names(each.part.channels)}: " if len(found) > 1 else ""
        lines.append(f"  {where}{each.text}")
        if len(each.curve):
            lines.append("  curve (clean -> observed): " + "  ".join(f"{x:+.3f} -> {y:+.3f}" for x, y in each.curve))
        if each.part.offset:
            lines.append(f"  a constant of {each.part.offset:+.4f} was added")
    return "\n".join(lines)
