"""Command line: `nldiff restore` (also `infer.py`), `train`, `train-baseline`, `evaluate` and `report`."""

import argparse
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from nldiff import sound
from nldiff.baselines.external import EXTERNAL
from nldiff.config import load_config
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.evaluation import evaluate, load_experiment
from nldiff.operators.distortions import DISTORTIONS, Distortion, parse_distortion
from nldiff.operators.waveshapers import WAVESHAPERS
from nldiff.priors.choice import load_candidates
from nldiff.priors.saved import SHIPPED, Prior
from nldiff.restoration.files import Outputs, restore_file, scratch_folder
from nldiff.restoration.methods import BLIND, RESTORERS, check_method
from nldiff.restoration.settings import RestoreConfig, check_config, sampler_settings
from nldiff.training.baseline import SupervisedConfig, train_supervised
from nldiff.training.loop import LoopConfig, StepReport
from nldiff.training.prior import TrainingConfig, train
from nldiff.version import __version__

_FAILED, _INTERRUPTED = 1, 130
_Config = TypeVar("_Config", bound=LoopConfig)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the `nldiff` command; returns the exit code (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    commands = {
        "restore": infer_main,
        "train": train_main,
        "train-baseline": train_baseline_main,
        "evaluate": evaluate_main,
        "report": report_main,
    }
    parser = argparse.ArgumentParser(
        prog="nldiff",
        description="Recover the clean signal and the transfer curve from a distorted recording.",
        epilog="'nldiff COMMAND --help' shows the options of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nldiff {__version__}")
    parser.add_argument(
        "command",
        choices=commands,
        help="restore recordings, train a prior or a comparison network, run an experiment, build its listening page",
    )
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return commands[options.command](options.rest, f"nldiff {options.command}")


def infer_main(arguments: Sequence[str] | None = None, prog: str = "infer.py") -> int:
    """Entry point of `infer.py` and of `nldiff restore`."""
    parser = argparse.ArgumentParser(prog=prog, description="Restore distorted recordings.", allow_abbrev=False)
    add_restore_arguments(parser)
    return _guarded(restore_command, parser.parse_intermixed_args(arguments))


def train_main(arguments: Sequence[str] | None = None, prog: str = "train_prior.py") -> int:
    """Entry point of `train_prior.py` and of `nldiff train`."""
    parser = argparse.ArgumentParser(prog=prog, description="Train a prior on clean audio.", allow_abbrev=False)
    add_train_arguments(parser, "configs/train")
    return _guarded(train_command, parser.parse_intermixed_args(arguments))


def train_baseline_main(arguments: Sequence[str] | None = None, prog: str = "train_baseline.py") -> int:
    """Entry point of `train_baseline.py` and of `nldiff train-baseline`."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Train a comparison network on distorted and clean audio.", allow_abbrev=False
    )
    add_train_arguments(parser, "configs/baselines")
    return _guarded(train_baseline_command, parser.parse_intermixed_args(arguments))


def evaluate_main(arguments: Sequence[str] | None = None, prog: str = "nldiff evaluate") -> int:
    """Entry point of `nldiff evaluate`."""
    parser = argparse.ArgumentParser(prog=prog, description="Run an experiment.", allow_abbrev=False)
    add_evaluate_arguments(parser)
    return _guarded(evaluate_command, parser.parse_intermixed_args(arguments))


def report_main(arguments: Sequence[str] | None = None, prog: str = "nldiff report") -> int:
    """Entry point of `nldiff report`."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Build the listening page of an experiment.", allow_abbrev=False
    )
    add_report_arguments(parser)
    return _guarded(report_command, parser.parse_args(arguments))


def add_restore_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `nldiff restore`."""
    names = ", ".join(DISTORTIONS)
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
        default=BLIND,
        metavar="NAME",
        help=f"{', '.join((BLIND, *RESTORERS))}, or weights of a network by name or file (default: {BLIND})",
    )
    add("--weights", metavar="NAME", help="weights of a network: a shipped name or a file (default: what suits INPUT)")
    add("--prior", help=f"{', '.join(SHIPPED)}, a prior file, or auto, which chooses a shipped one (default: auto)")
    add("--waveshaper", choices=sorted(WAVESHAPERS), help="family of the curve (default: ccr)")
    add("--steps", type=int, metavar="N", help="diffusion steps (default: the prior's)")
    add(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="independent restorations of every input (default: 1)",
    )
    add("--seed", type=int, metavar="S", help="seed of the random numbers (default: 0)")
    add("--device", help="auto, cpu, cuda or mps (default: auto)")
    add("--known", metavar="NAME:PARAM=VALUE,…", help=f"the distortion, if it is known: {names}")
    add(
        "--distort",
        metavar="NAME:sdr=3",
        help="distort the clean INPUT first and score the result against it",
    )
    add("--config", type=Path, metavar="FILE", help="YAML file of settings")
    add("--quiet", action="store_true", help="no progress bar, no summary")


def add_train_arguments(parser: argparse.ArgumentParser, examples: str) -> None:
    """Options of `nldiff train` and `nldiff train-baseline`; `examples` is a folder of configurations."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help=f"YAML file, see {examples}")
    parser.add_argument("--resume", action="store_true", help="continue the run in run_dir")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the configuration")


def add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `nldiff evaluate`."""
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file, see configs/eval")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of clean clips instead of the CONFIG's")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default: out/eval/CONFIG)")
    parser.add_argument("--smoke", action="store_true", help="a few quick cells, to see that all works")
    parser.add_argument("--quiet", action="store_true", help="no progress bar, no summary")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of the configuration")


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `nldiff report`."""
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="folder that 'nldiff evaluate' wrote")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the page (default: RUN_DIR/report)")
    parser.add_argument("--lufs", type=float, default=-23.0, help="loudness of the examples, LUFS (default: -23)")


def restore_command(options: argparse.Namespace) -> int:
    """Restore every input; a bad one is reported and the others go on."""
    known, distort = _known(options.known), parse_distortion(options.distort) if options.distort else None
    overrides = [text for text in options.inputs if "=" in text and not Path(text).exists()]
    paths = sound.find_audio([text for text in options.inputs if text not in overrides])
    if not paths:
        raise NldiffError("no INPUT given: an audio file or a folder expected")
    if options.samples < 1:
        raise NldiffError(f"--samples {options.samples}: at least 1 expected")
    _check_method(options)
    config = _with_flags(load_config(RestoreConfig, options.config, overrides), options)
    check_config(config)
    _check_names(paths, options)
    device = choose_device(config.device)
    priors = load_candidates(config.prior, device) if options.method == BLIND else []
    for prior in priors:
        sampler_settings(prior, config)
    with scratch_folder(options.output):
        pass  # a folder that cannot be written is found before the work, and reported once
    failed = False
    for path in paths:
        try:
            for number in range(options.samples):
                _restore_one(path, options, config, number, priors, known, distort)
        except NldiffError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            print(f"error: {message}", file=sys.stderr)
            failed = True
    return _FAILED if failed else 0


def train_command(options: argparse.Namespace) -> int:
    """Train the prior that the configuration describes."""
    return _train(options, TrainingConfig, train)


def train_baseline_command(options: argparse.Namespace) -> int:
    """Train the comparison network that the configuration describes."""
    return _train(options, SupervisedConfig, train_supervised)


def evaluate_command(options: argparse.Namespace) -> int:
    """Run the experiment that the configuration describes."""
    config = load_experiment(options.config, options.data, options.smoke, options.overrides)
    folder = options.out or Path("out/eval") / (options.config.stem + ("-smoke" if options.smoke else ""))
    # torchrun starts this in every process; one of them talks.
    talks = os.environ.get("RANK", "0") == "0"
    with tqdm(unit="cell", disable=options.quiet or not talks, delay=1e-3, dynamic_ncols=True) as bar:

        def on_progress(done: int, total: int) -> None:
            if bar.total is None:
                bar.total = total
                _resume(bar, done)
            bar.update(done - bar.n)

        def warn(message: str) -> None:
            if talks:
                tqdm.write(f"warning: {message}", file=sys.stderr)

        outcome = evaluate(config, folder, on_progress, warn)
    if outcome and outcome.failed:
        print(f"warning: {outcome.failed} of {outcome.cells} cells failed: see summary.md", file=sys.stderr)
    if outcome and not options.quiet:
        print(folder / "summary.md")
    return 0


def report_command(options: argparse.Namespace) -> int:
    """Build the listening page of a run."""
    from nldiff.report import build_report  # needs an extra

    print(build_report(options.run, options.out, options.lufs))
    return 0


def _guarded(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be text in any encoding
    try:
        return command(options)
    except (NldiffError, OSError) as error:  # what the operating system says names the file too
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED


def _train(
    options: argparse.Namespace,
    schema: type[_Config],
    training: Callable[[_Config, bool, Callable[[StepReport], None]], Path],
) -> int:
    """Run a training with a progress bar."""
    config = load_config(schema, options.config, options.overrides)
    # torchrun starts this in every process; one of them talks.
    quiet = options.quiet or os.environ.get("RANK", "0") != "0"
    with tqdm(total=config.steps, unit="step", disable=quiet, dynamic_ncols=True) as bar:

        def on_step(report: StepReport) -> None:
            if bar.n == 0:
                _resume(bar, report.step - 1)
            bar.set_postfix(loss=f"{report.loss:.3f}", refresh=False)
            bar.update()

        path = training(config, options.resume, on_step)
    if not quiet:
        print(path)
    return 0


def _resume(bar: tqdm, done: int) -> None:
    """What was done in an earlier run does not count for the speed and the remaining time."""
    bar.initial = bar.n = bar.last_print_n = done


def _with_flags(config: RestoreConfig, options: argparse.Namespace) -> RestoreConfig:
    """Settings that have an option of their own; the option counts."""
    given = {key: getattr(options, key) for key in ("prior", "waveshaper", "seed", "device")}
    if options.steps is not None:
        given["sampler"] = {**config.sampler, "steps": options.steps}
    return replace(config, **{key: value for key, value in given.items() if value is not None})


def _check_method(options: argparse.Namespace) -> None:
    """Find out before the work whether the method exists and the other options are for it."""
    check_method(options.method, options.weights)
    if options.method == BLIND:
        return
    for name in ("prior", "waveshaper", "steps"):
        if getattr(options, name) is not None:
            raise NldiffError(f"--{name} {getattr(options, name)}: only with --method {BLIND}")
    if options.samples > 1 and options.method != "resemble-enhance":
        raise NldiffError(f"--samples {options.samples}: --method {options.method} gives the same every time")
    if options.known and options.method in ("irm", *EXTERNAL):
        raise NldiffError(f"--known {options.known}: --method {options.method} cannot use it")
    if options.method == "irm" and not options.distort:
        raise NldiffError("--method irm needs the clean signal: only with --distort, where INPUT is clean")


def _check_names(paths: list[Path], options: argparse.Namespace) -> None:
    """Find out before the work whether results would overwrite each other or an input."""
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


def _known(text: str | None) -> Distortion | None:
    if text is None:
        return None
    name, parameters = parse_distortion(text)
    if "sdr" in parameters:
        raise NldiffError(f"--known {text}: parameters expected, an sdr cannot be computed without the clean signal")
    return Distortion(name, parameters)


def _restore_one(
    path: Path,
    options: argparse.Namespace,
    config: RestoreConfig,
    number: int,
    priors: Sequence[Prior],
    known: Distortion | None,
    distort: tuple[str, dict[str, float]] | None,
) -> None:
    """Restore sample `number` of one input, with a progress bar and a summary."""
    config = replace(config, seed=config.seed + number)
    stem = _stem(path, options, number)
    # The delay keeps the bar back until sampling has begun: a file that is refused gets one line.
    with tqdm(desc=stem, unit="step", delay=1e-6, mininterval=0, disable=options.quiet, dynamic_ncols=True) as bar:

        def on_step(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        outputs = restore_file(
            path, options.output, priors, config, stem=stem, known=known, distort=distort,
            method=options.method, weights=options.weights, on_step=on_step,
        )  # fmt: skip
    if not options.quiet:
        print(summary(path, outputs))


def summary(path: Path, outputs: Outputs) -> str:
    """What was found, in a few lines."""
    report = outputs.report
    table = np.genfromtxt(outputs.curve_table, delimiter=",", skip_header=1)
    # Almost all restored samples are within; beyond, the curve is a guess.
    inputs = np.array([-1.0, -0.5, -0.1, 0.1, 0.5, 1.0]) * report["curve_range"]
    points = np.interp(inputs, table[:, 0], table[:, 1])
    if report["method"] == BLIND:
        errors = ", ".join(f"{name} {error:.2f} dB" for name, error in report["prior_scores"].items())
        work = [
            f"{len(report['cost'])} steps, {report['network_evaluations']} network evaluations, "
            f"{report['seconds']:.0f} s, seed {report['seed']}",
            f"prior {report['prior']}" + (f", the lowest denoising error of: {errors}" if errors else ", as named"),
        ]
    else:
        weights = f", weights {report['weights']}" if report["weights"] else ""
        work = [f"method {report['method']}{weights}, {report['seconds']:.0f} s"]
    band = f"restored up to {report['restored_band_hz']:.0f} Hz"
    if report["sample_rate"] / 2 > report["restored_band_hz"]:
        band += "; above it, " + {"drop": "nothing", "keep": "as observed"}[report["config"]["above_band"]]
    pairs = "  ".join(f"{x:+.3f} -> {y:+.3f}" for x, y in zip(inputs, points, strict=True))
    lines = [
        f"{path.name} -> {outputs.audio}",
        *(f"  {line}" for line in work),
        f"  {band}",
        f"  curve (restored -> observed): {pairs}",
        f"  curve(restored) explains the recording to {report['explained_db']:.1f} dB",
    ]
    for when, values in report.get("scores", {}).items():
        lines.append(
            f"  {when:6} SI-SDR {values['si_sdr_db']:.2f} dB, LSD {values['lsd']:.3f}, "
            f"RR-MSE {values['rr_mse_db']:.1f} dB"
        )
    return "\n".join(lines)
