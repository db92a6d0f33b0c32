"""`nldiff restore` and `infer.py`."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from nldiff import sound
from nldiff.cli.bars import restoration_bar, show_progress
from nldiff.cli.jobs import run_in_processes
from nldiff.cli.summary import summary
from nldiff.config import load_config
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, WAVESHAPERS, Operator, Recipe, parse_operator
from nldiff.priors import SHIPPED, Prior
from nldiff.priors.choice import load_candidates
from nldiff.restoration.methods import METHODS, Method, find_method
from nldiff.restoration.output import restore_file, scratch_folder
from nldiff.restoration.settings import QUALITIES, RestoreConfig, check_config, resolve_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file or folder; key=value changes any setting of --config",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the results")
    add(
        "--method",
        metavar="NAME",
        help=f"{', '.join(METHODS)}, or weights of a network by name or file (default: blind, or informed if --known)",
    )
    add("--weights", metavar="NAME", help="weights of a network: a shipped name or a file (default: suited to INPUT)")
    add("--prior", help=f"{', '.join(SHIPPED)}, a prior file, or auto, which chooses a shipped one (default: auto)")
    add("--waveshaper", choices=sorted(WAVESHAPERS), help="family of the curve (default: ccr)")
    add("--quality", choices=QUALITIES, help="how much work is spent (default: normal)")
    add("--steps", type=int, metavar="N", help="diffusion steps (default: the prior's)")
    add("--samples", type=int, default=1, metavar="N", help="independent restorations of every input (default: 1)")
    add("--jobs", type=int, default=1, metavar="N", help="inputs to restore at once, one thread each (default: 1)")
    add("--seed", type=int, metavar="S", help="seed of the random numbers (default: 0)")
    add("--device", help="auto, cpu, cuda or mps (default: auto)")
    add(
        "--known",
        metavar="NAME:PARAM=VALUE,…",
        help=f"the distortion, if it is known, or a chain of them ('A > B'): {', '.join(DISTORTIONS)}",
    )
    add("--distort", metavar="NAME:sdr=3", help="distort the clean INPUT first and score the result against it")
    add("--force", action="store_true", help="restore even what shows no sign of a distortion")
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.set_defaults(bar=True)
    add("--quiet", action="store_true", help="no progress bar, no summary")


def run(options: argparse.Namespace) -> int:
    """Restore every input. A bad one is reported, and the others are restored all the same."""
    known = parse_operator(options.known).build(None) if options.known else None
    distort = parse_operator(options.distort) if options.distort else None
    overrides = [text for text in options.inputs if "=" in text and not Path(text).exists()]
    paths = sound.find_audio([text for text in options.inputs if text not in overrides])
    if not paths:
        raise NldiffError("no INPUT given: an audio file or a folder expected")
    if options.jobs < 1:
        raise NldiffError(f"--jobs {options.jobs}: at least 1 expected")
    if options.samples < 1:
        raise NldiffError(f"--samples {options.samples}: at least 1 expected")
    method = _method(options, known)
    config = _with_flags(load_config(RestoreConfig, options.config, overrides), options)
    check_config(config)
    _check_names(paths, options)
    device = choose_device(config.device)
    priors = load_candidates(config.prior, device) if method.uses_prior else []
    for prior in priors:
        resolve_settings(prior, config)
    with scratch_folder(options.output):
        pass  # a folder that cannot be written is reported up front, and once
    if options.jobs > 1 and len(paths) > 1:
        return run_in_processes(run, options, [[str(path), *overrides] for path in paths])
    failed = 0
    for path in paths:
        try:
            for number in range(options.samples):
                _restore_one(path, options, config, number, priors, known, distort, method)
        except NldiffError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            print(f"error: {message}", file=sys.stderr)
            failed = 1
    return failed


def _method(options: argparse.Namespace, known: Operator | None) -> Method:
    """Find the method and validate that the other options suit it.

    The method "blind" becomes "informed" if the operator is known.
    """
    name = options.method or "blind"
    if options.known and name == "blind":
        name = "informed"
    method = find_method(name, options.weights)
    for option in ("prior", "waveshaper", "quality", "steps"):
        if getattr(options, option) is not None and not method.uses_prior:
            raise NldiffError(f"--{option} {getattr(options, option)}: --method {name} does not use it")
    if options.samples > 1 and not method.random:
        raise NldiffError(f"--samples {options.samples}: --method {name} gives the same every time")
    method.check_inputs(known, bool(options.distort))
    return method


def _with_flags(config: RestoreConfig, options: argparse.Namespace) -> RestoreConfig:
    """Change the settings that have an option of their own; the option wins."""
    given = {key: getattr(options, key) for key in ("prior", "waveshaper", "quality", "seed", "device")}
    if options.steps is not None:
        given["sampler"] = {**config.sampler, "steps": options.steps}
    if options.force:
        given["evidence"] = {**config.evidence, "judge": False}
    return replace(config, **{key: value for key, value in given.items() if value is not None})


def _check_names(paths: list[Path], options: argparse.Namespace) -> None:
    """Validate up front that results overwrite neither each other nor an input."""
    stem, count = Counter(path.stem for path in paths).most_common(1)[0]
    if count > 1:
        raise NldiffError(f"{count} inputs are called '{stem}' and would overwrite each other: restore them separately")
    inputs = {path.resolve() for path in paths}
    for path in paths:
        for number in range(options.samples):
            result = options.output / f"{_stem(path, options, number)}.restored.wav"
            if result.resolve() in inputs:
                raise NldiffError(f"{result} is an input and would be overwritten by the result of {path}")


def _stem(path: Path, options: argparse.Namespace, number: int) -> str:
    return path.stem if options.samples == 1 else f"{path.stem}.{number + 1}"


def _restore_one(
    path: Path,
    options: argparse.Namespace,
    config: RestoreConfig,
    number: int,
    priors: Sequence[Prior],
    known: Operator | None,
    distort: Recipe | None,
    method: Method,
) -> None:
    """Restore sample `number` of one input, with a progress bar and a summary."""
    config = replace(config, seed=config.seed + number)
    stem = _stem(path, options, number)
    with restoration_bar(stem, options.quiet or not options.bar) as bar:
        outputs = restore_file(
            path, options.output, priors, config, stem=stem, known=known, distort=distort,
            method=method, weights=options.weights, on_step=partial(show_progress, bar),
        )  # fmt: skip
    for warning in (outputs.report["verdict"] or {}).get("warnings", ()):
        print(f"warning: {path}: {warning}", file=sys.stderr)
    if not options.quiet:
        print(summary(path, outputs))
