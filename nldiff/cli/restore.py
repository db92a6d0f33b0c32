"""`nldiff restore` and `infer.py`."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nldiff import sound
from nldiff.cli.bars import restoration_bar, show_progress
from nldiff.cli.destinations import (
    PIPE,
    Destination,
    Source,
    add_output_arguments,
    chosen_format,
    find_sources,
    messages,
    plan_destinations,
    refuse_overwriting,
    scratch_files,
    send,
)
from nldiff.cli.jobs import run_in_processes
from nldiff.cli.spread import number_of_samples, spread_summary, why_several
from nldiff.cli.summary import summary
from nldiff.cli.terminal import complain, one_line
from nldiff.cli.together import check_together, run_together
from nldiff.config import load_config
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, LEARNABLE, Operator, parse_operator
from nldiff.priors import SHIPPED
from nldiff.priors.choice import load_candidates
from nldiff.report.pages import check_pages
from nldiff.report.preview import build_preview
from nldiff.restoration.draws import SAMPLES, draw_config
from nldiff.restoration.inputs import told_operator
from nldiff.restoration.methods import METHODS, Method, find_method
from nldiff.restoration.output import Outputs, restore_file, result_paths
from nldiff.restoration.result import PREVIEW
from nldiff.restoration.settings import LEVELS, QUALITIES, RestoreConfig, check_config, resolve_settings
from nldiff.restoration.spread import FileDraws, earlier_spread, spread_paths
from nldiff.restoration.strategies import allowed_strategies
from nldiff.sound import AudioFormat
from nldiff.writing import new_folders, scratch_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="audio file, video, folder, or - for standard input; key=value changes any setting of --config",
    )
    add_output_arguments(parser, "restored")
    add(
        "--method",
        metavar="NAME",
        help=f"{', '.join(METHODS)}, or weights of a network by name or file (default: blind, or informed if --known)",
    )
    add("--weights", metavar="NAME", help="weights of a network: a shipped name or a file (default: suited to INPUT)")
    add("--prior", help=f"{', '.join(SHIPPED)}, a prior file, or auto, which chooses a shipped one (default: auto)")
    add("--waveshaper", choices=sorted(LEARNABLE), help="family of the curve (default: ccr)")
    add("--quality", choices=QUALITIES, help="how much work is spent (default: normal)")
    add("--steps", type=int, metavar="N", help="diffusion steps (default: the prior's)")
    add(
        "--samples",
        type=int,
        metavar="N",
        help="restorations of every input, drawn so that they differ where the recording leaves room (default: 1, no "
        f"draw; {SAMPLES} with --spread)",
    )
    add(
        "--spread",
        action="store_true",
        help="write the mean of the samples and their standard deviation as well: NAME.mean.wav, NAME.spread.wav",
    )
    add("--jobs", type=int, default=1, metavar="N", help="inputs to restore at once, one thread each (default: 1)")
    add("--seed", type=int, metavar="S", help="seed of the random numbers (default: 0)")
    add(
        "--level",
        choices=LEVELS,
        help="of the result: unity leaves what was not distorted where it is; auto is the same, lowered so that peaks "
        "stay below full scale; rms and peak are those of INPUT (default: auto)",
    )
    add("-d", "--device", help="auto (CUDA or the CPU), cpu, cuda, cuda:N or mps (default: auto)")
    add(
        "--known",
        metavar="NAME:PARAM=VALUE,…",
        help=f"the distortion, if it is known, or a chain of them ('A > B'): {', '.join(DISTORTIONS)}",
    )
    add("--distort", metavar="NAME:sdr=3", help="distort the clean INPUT first and score the result against it")
    add("--preview", action="store_true", help="write a page to listen to and look at as well: NAME.preview.html")
    add("--same-operator", action="store_true", help="all inputs went through one device, at one setting")
    add("--force", action="store_true", help="restore even what shows no sign of a distortion")
    add("--strict", action="store_true", help="refuse a recording that ends early, instead of restoring what is there")
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    parser.set_defaults(bar=True, sources=None, only=None)
    add("--quiet", action="store_true", help="no progress bar, no summary")


def run(options: argparse.Namespace) -> int:
    """Restore every input. A bad one is reported, and the others are restored all the same."""
    with messages(options.verbose), scratch_files() as scratch:
        return _run(options, scratch)


def _run(options: argparse.Namespace, scratch: Path) -> int:
    known = told_operator(options.known) if options.known else None
    distort = parse_operator(options.distort) if options.distort else None
    overrides = [text for text in options.inputs if "=" in text and not os.path.exists(text)]
    if options.jobs < 1:
        raise NldiffError(f"--jobs {options.jobs}: at least 1 expected")
    options.samples = number_of_samples(options)
    method = _method(options, known)
    if options.preview:
        _check_preview(options)
    if options.same_operator:
        check_together(options)
    config = _with_flags(load_config(RestoreConfig, options.config, overrides), options)
    check_config(config)
    audio_format = chosen_format(options)
    # Processes beside each other get the list of the first: meanwhile the folders fill with results.
    given = [text for text in options.inputs if text not in overrides]
    sources: list[Source] = options.sources or find_sources(given, scratch, ".restored")
    if not sources:
        raise NldiffError("no INPUT given: an audio file or a folder expected")
    destinations = plan_destinations(sources, options.output, scratch)
    if options.same_operator:
        priors = load_candidates(config.prior, choose_device(config.device)) if method.uses_prior else []
        return run_together(options, sources, destinations, config, priors, method)
    runs = _runs(sources, destinations, options, audio_format)
    if options.only is not None:
        runs = [one for one in runs if one.source is sources[options.only]]
    if not runs:
        return 0
    device = choose_device(config.device)
    priors = load_candidates(config.prior, device) if method.uses_prior else []
    for prior in priors:
        allowed_strategies(resolve_settings(prior, config).refinement.name)
    if options.only is None:
        with scratch_folder(scratch if options.output == PIPE else runs[0].destination.folder):
            pass  # a folder that cannot be written is reported up front, and once
    restore = partial(
        restore_file, prior=priors, known=known, distort=distort, method=method, weights=options.weights,
        audio_format=audio_format, strict=options.strict,
    )  # fmt: skip
    if options.jobs > 1 and len(sources) > 1 and PIPE not in (*options.inputs, options.output):
        options.sources, changes = sources, [{"only": number} for number in range(len(sources))]
        with new_folders({one.destination.folder for one in runs}):
            return run_in_processes(run, options, changes)
    failed = 0
    for source in sources:
        mine = [one for one in runs if one.source is source]
        if mine:
            failed |= _restore_source(mine, options, config, restore, audio_format)
    return failed


def _restore_source(
    runs: list["_Run"],
    options: argparse.Namespace,
    config: RestoreConfig,
    restore: Callable[..., Outputs],
    form: AudioFormat,
) -> int:
    """Restore one input as often as it is asked for; returns the exit code."""
    failed, source = 0, runs[0].source

    def restore_all(**hooks: Any) -> None:
        nonlocal failed
        for one in runs:
            drawn = draw_config(config, one.number) if options.samples > 1 else config
            try:
                _restore_one(one, options, drawn, partial(restore, **hooks))
            except NldiffError as error:
                source.complain(error)
                failed = 1
                return  # what is wrong with the input is said once

    if not options.spread:
        restore_all()
        return failed
    folder, stem = runs[0].destination.folder, runs[0].spread_stem
    try:
        with scratch_folder(folder) as scratch:
            draws = FileDraws(scratch)
            restore_all(on_restored=draws.keep)
            if failed:
                return failed
            report = draws.write(source.path, folder, stem, form)
    except NldiffError as error:
        source.complain(error)
        return 1
    for warning in report["warnings"]:
        complain("warning", f"{source.shown}: {warning}")
    if not options.quiet:
        print(one_line(spread_summary(folder, report)))
    return 0


def _check_preview(options: argparse.Namespace) -> None:
    check_pages()
    for name, given in (("--distort", options.distort), ("--output -", options.output == PIPE)):
        if given:
            raise NldiffError(f"--preview: not with {name}")


@dataclass(frozen=True)
class _Run:
    """One restoration: sample `number` of a source, where it goes, and the files that it writes."""

    source: Source
    destination: Destination
    number: int
    results: list[Path]
    spread_stem: str


def _runs(
    sources: list[Source], destinations: list[Destination], options: argparse.Namespace, form: AudioFormat
) -> list[_Run]:
    """Everything that is to be done, after validating that nothing is overwritten that should not be."""
    runs = []
    for source, given in zip(sources, destinations, strict=True):
        for number in range(options.samples):
            to = given
            if options.samples > 1:
                if given.audio_name:
                    raise NldiffError(f"{why_several(options)}: --output {options.output} is one file")
                to = replace(given, stem=f"{given.stem}.{number + 1}")
            results = result_paths(to.folder, to.stem, to.audio_name, form)
            runs.append(_Run(source, to, number, results, given.stem))
    spreads = {
        one.source: spread_paths(one.destination.folder, one.spread_stem, form) for one in runs if options.spread
    }
    results = [path for one in runs for path in one.results] + [path for made in spreads.values() for path in made]
    refuse_overwriting(results, sources)
    if not options.skip_existing:
        return runs
    left = [one for one in runs if not all(path.is_file() for path in one.results)]
    # A spread is that of all samples of a source.
    unfinished = {one.source for one in left} | {s for s, made in spreads.items() if not all(p.is_file() for p in made)}
    return [one for one in runs if one.source in unfinished] if options.spread else left


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
        raise NldiffError(f"{why_several(options)}: --method {name} gives the same every time")
    method.check_inputs(known, bool(options.distort))
    return method


def _with_flags(config: RestoreConfig, options: argparse.Namespace) -> RestoreConfig:
    """Change the settings that have an option of their own; the option wins."""
    given = {key: getattr(options, key) for key in ("prior", "waveshaper", "quality", "seed", "device", "level")}
    if options.steps is not None:
        given["sampler"] = {**config.sampler, "steps": options.steps}
    if options.force:
        given["evidence"] = {**config.evidence, "force": True}
    return replace(config, **{key: value for key, value in given.items() if value is not None})


def _restore_one(
    one: _Run, options: argparse.Namespace, config: RestoreConfig, restore: Callable[..., Outputs]
) -> None:
    """Restore one sample of one input, with a progress bar and a summary."""
    to = one.destination
    replaced = options.samples > 1 and any(path.exists() for path in one.results)
    with restoration_bar(one_line(to.stem), options.quiet or not options.bar) as bar:
        outputs = restore(
            one.source.path,
            to.folder,
            config=config,
            stem=to.stem,
            audio_name=to.audio_name,
            on_step=partial(show_progress, bar),
            outdated=earlier_spread(to.folder, one.spread_stem) if replaced else [],
        )
    for warning in outputs.report["warnings"]:
        complain("warning", f"{one.source.shown}: {warning}")
    piped = options.output == PIPE
    if options.preview:
        page = to.folder / f"{to.stem}{PREVIEW}"
        with sound.readable(one.source.path) as original:
            build_preview(original, outputs.audio, outputs.curve_picture, outputs.report, page)
    if not options.quiet:
        print(summary(one.source.path, outputs), file=sys.stderr if piped else sys.stdout)
    if piped:
        send(outputs.audio)
