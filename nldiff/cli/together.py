"""`nldiff restore --same-operator`: several inputs, one device."""

import argparse
from collections.abc import Sequence
from functools import partial

from nldiff.cli.bars import restoration_bar, show_progress
from nldiff.cli.destinations import PIPE, Destination, Source, refuse_overwriting
from nldiff.cli.terminal import complain
from nldiff.errors import NldiffError
from nldiff.priors import Prior
from nldiff.restoration.methods import Method
from nldiff.restoration.output import result_paths
from nldiff.restoration.result import part_values
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.together import OPERATOR_NAME, restore_together
from nldiff.sound import AudioFormat

# Options that one operator for all inputs does not go with.
_OTHERS = ("known", "distort", "preview", "format", "bits", "weights", "skip_existing", "spread")


def check_together(options: argparse.Namespace) -> None:
    """Validate the options.

    Raises:
        NldiffError: one does not go with `--same-operator`.
    """
    wrong = [name for name in _OTHERS if getattr(options, name)]
    wrong += ["samples"] * (options.samples > 1) + ["jobs"] * (options.jobs > 1)
    if wrong:
        raise NldiffError(f"--same-operator: not with --{wrong[0].replace('_', '-')}")
    if PIPE in (*options.inputs, options.output):
        raise NldiffError("--same-operator: files expected, not standard input or output")


def run_together(
    options: argparse.Namespace,
    sources: Sequence[Source],
    destinations: Sequence[Destination],
    config: RestoreConfig,
    priors: Sequence[Prior],
    method: Method,
) -> int:
    """Restore all inputs with one operator; results of all go into one folder."""
    folder = destinations[0].folder
    if any(to.audio_name or to.folder != folder for to in destinations):
        raise NldiffError(
            f"--same-operator: --output {options.output}: a folder, and inputs whose results have different names "
            "there, expected"
        )
    paths = [path for to in destinations for path in result_paths(folder, to.stem, None, AudioFormat())]
    refuse_overwriting([*paths, folder / OPERATOR_NAME], sources)
    count = f"{len(sources)} recording{'s' if len(sources) > 1 else ''}"
    with restoration_bar(count, options.quiet or not options.bar) as bar:
        done = restore_together(
            [source.path for source in sources], folder, list(priors), config,
            stems=[to.stem for to in destinations], method=method, strict=options.strict,
            on_step=partial(show_progress, bar),
        )  # fmt: skip
    values = part_values(done.restoration.parts)
    for warning in [*done.warnings, *values["warnings"]]:
        complain("warning", warning)
    if not options.quiet:
        for source, audio in zip(sources, done.audio, strict=True):
            print(f"{source.shown} -> {audio}")
        verdict = values["verdict"]
        print(f"  one operator: {done.operator}" + (f", verdict: {verdict['finding']}" if verdict else ""))
        print(f"  it explains the recordings to {done.restoration.explained_db:.1f} dB")
    return 0
