"""`nldiff evaluate`: method x distortion x clip x seed, resumable and shared between processes."""

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml

from nldiff import figures
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.evaluation.cells import Group, Runner
from nldiff.evaluation.clips import find_clips
from nldiff.evaluation.config import EvaluationConfig, check_experiment
from nldiff.evaluation.scoring import make_embeddings
from nldiff.evaluation.tables import require_parquet, write_tables
from nldiff.operators import parse_operator
from nldiff.priors import Prior, load_prior
from nldiff.restoration.methods import METHODS
from nldiff.restoration.result import versions
from nldiff.restoration.settings import check_config, resolve_settings
from nldiff.restoration.strategies import allowed_strategies
from nldiff.writing import atomic_path

_POLL_SECONDS = 0.2
# They say which cells there are, not what is in them, and may change between runs in one folder.
_MAY_CHANGE = ("methods", "distortions", "files", "seeds", "compare_to", "patience_minutes", "smoke", "smoke_run")


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        cells: number of cells.
        failed: number of those that failed.
    """

    cells: int
    failed: int


def evaluate(
    config: EvaluationConfig,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    warn: Callable[[str], None] = lambda message: None,
) -> Outcome | None:
    """Run the cells that `folder` lacks, then write tables and figures.

    Under `torchrun` every process calls this. RANK and WORLD_SIZE decide which process runs which distorted clips,
    each with all methods. The first process then waits for the others and writes the tables.

    Args:
        config: the experiment.
        folder: folder of the results, the same one for all processes.
        on_progress: called with (finished cells, all cells).
        warn: called with one line for every problem that does not stop the run, once for each line.

    Returns:
        The finished run; None in all processes but the first.

    Raises:
        NldiffError: the configuration is unusable, the folder holds results of other settings or cannot be written,
            or the other processes stopped.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    require_parquet()
    groups = plan(config)
    embeddings, problems = make_embeddings(config.embeddings)
    here = dataclasses.replace(config, restore=dataclasses.replace(config.restore, device=_device(config)))
    runner = Runner(here, folder, _loaded_priors(here), embeddings, warn)
    for problem in problems:
        warn(problem)
    _settle_settings(config, folder, write=rank == 0)
    paths = [runner.path(group, method) for group in groups for method in group.methods]

    def missing() -> int:
        count = sum(not path.exists() for path in paths)
        on_progress(len(paths) - count, len(paths))
        return count

    for group in groups[rank::world]:
        runner.check(group)
    missing()
    for group in groups[rank::world]:
        runner.run(group, missing)
    if rank != 0:
        return None
    _wait(missing, config.patience_minutes * 60)
    rows = [runner.row(group, method) for group in groups for method in group.methods]
    problems += [line for row in rows for line in row.pop("problems")]
    for row in rows:
        del row["files"]
    write_tables(folder, rows, config.metrics, list(embeddings), config.compare_to, problems)
    figures.draw(folder)
    return Outcome(len(rows), sum(row["status"] != "ok" for row in rows))


def plan(config: EvaluationConfig) -> list[Group]:
    """All cells of an experiment, in the order of the run.

    Raises:
        NldiffError: a name is unknown, a value is out of range, there are no clips, no cells, or two of one name.
    """
    check_experiment(config)
    recipes = [parse_operator(text) for text in config.distortions]
    clips = find_clips(config.data, config.files, config.pieces, config.seconds)
    groups = []
    for seed, clip, recipe in product(config.seeds, clips, recipes):
        methods = [name for name in config.methods if _has_cells(name, recipe.family, config)]
        groups.append(Group(clip, recipe, seed, tuple(methods)))
    names = Counter(group.cell(method) for group in groups for method in group.methods)
    if not names:
        raise NldiffError(f"no method of {', '.join(config.methods)} is meant for these distortions")
    name, count = names.most_common(1)[0]
    if count > 1:
        raise NldiffError(f"{count} cells would be called {name}: methods, distortions, clips and seeds must differ")
    return groups


def _has_cells(method: str, family: str, config: EvaluationConfig) -> bool:
    """Whether a method is meant for a distortion at the rate of the run; a network with named weights is."""
    chosen = METHODS[method]
    return (chosen.takes_weights and method in config.weights) or chosen.suits(family, config.rate)


def _loaded_priors(config: EvaluationConfig) -> list[Prior]:
    """The prior of the run, if a method needs one, after validating the settings up front.

    Raises:
        NldiffError: unknown prior or setting.
    """
    if not any(METHODS[name].uses_prior for name in config.methods):
        return []
    if config.restore.prior == "auto":
        raise NldiffError("restore.prior=auto: an experiment names its prior")
    check_config(config.restore)
    prior = load_prior(config.restore.prior, choose_device(config.restore.device))
    allowed_strategies(resolve_settings(prior, config.restore).refinement.name)
    return [prior]


def _device(config: EvaluationConfig) -> str:
    """Device of the settings; the processes of `torchrun` share the GPUs of the machine."""
    local = os.environ.get("LOCAL_RANK")
    if config.restore.device == "auto" and local is not None and torch.cuda.is_available():
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return config.restore.device


def _settle_settings(config: EvaluationConfig, folder: Path, write: bool) -> None:
    """Write settings.yaml, unless the folder holds results of other settings.

    Raises:
        NldiffError: it does, or it cannot be written.
    """
    path = folder / "settings.yaml"
    resolved = dataclasses.asdict(config)
    if path.is_file():
        earlier = _earlier_config(path)
        for key, value in resolved.items():
            if key not in _MAY_CHANGE and earlier.get(key) != value:
                raise NldiffError(
                    f"{folder} holds results of other settings ({key}: {earlier.get(key)}, now {value}): "
                    "choose another --out or remove it"
                )
    if write:
        content = {
            "config": resolved,
            "versions": {name: str(version) for name, version in versions().items()},
            "threads": torch.get_num_threads(),
        }
        with atomic_path(path) as temporary:
            temporary.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _earlier_config(path: Path) -> dict[str, Any]:
    """The configuration in the settings.yaml of an earlier run.

    Raises:
        NldiffError: it cannot be read.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))["config"]
        if not isinstance(config, dict):
            raise TypeError("no settings in it")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise NldiffError(
            f"{path} is damaged ({reason[:150]}): if the folder holds results of this configuration, remove this file"
        ) from error
    return config


def _wait(missing: Callable[[], int], patience: float) -> None:
    """Wait until no cell is missing.

    Raises:
        NldiffError: none was finished for `patience` seconds.
    """
    left, since = missing(), time.monotonic()
    while left:
        if time.monotonic() - since > patience:
            raise NldiffError(
                f"{left} cells of other processes are missing and none was finished for {patience / 60:g} minutes: "
                "run again to do the rest"
            )
        time.sleep(_POLL_SECONDS)
        now = missing()
        left, since = now, since if now == left else time.monotonic()
