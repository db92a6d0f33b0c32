"""The configuration of an experiment, and its validation."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import MISSING

from nldiff import sound
from nldiff.baselines.aspade import PRESETS
from nldiff.baselines.networks import NETWORKS
from nldiff.config import load_config
from nldiff.errors import NldiffError, require
from nldiff.evaluation.scoring import check_metrics
from nldiff.restoration.methods import METHODS
from nldiff.restoration.settings import RestoreConfig


@dataclass
class EvaluationConfig:
    """An experiment; the fields of `configs/eval/*.yaml` and `key=value` arguments.

    Attributes:
        data: folder of clean clips.
        files, pieces, seconds: see `nldiff.evaluation.clips.find_clips`.
        rate: sample rate of the clips after resampling, Hz.
        level: RMS of the clips after scaling; 0 keeps their own.
        distortions: texts that `nldiff.operators.parse_operator` reads, chains among them.
        methods: keys of `nldiff.restoration.methods.METHODS`.
        seeds: seeds of the random numbers.
        metrics: keys of `CASE_METRICS` of `nldiff.evaluation.scoring`, or of signals in `nldiff.metrics.METRICS`.
        embeddings: embedding of a Fréchet distance (log_mel, vggish, encodec) -> path of its weights.
        compare_to: the method that the others are compared with.
        aspade: preset of A-SPADE and S-SPADE, "survey" or "short".
        weights: network (key of `nldiff.baselines.networks.NETWORKS`) -> name or file of its weights in all cells. A
            network that is left out has cells only where shipped weights were trained for the distortion.
        save_audio: write the signals as well.
        patience_minutes: the first process waits this long for cells of the others while none of them is finished.
        restore: settings of the restoration.
        smoke: `key=value` changes that `--smoke` applies.
        smoke_run: they are applied; set by `load_experiment`.
    """

    data: str = MISSING
    files: int = 0
    pieces: int = 1
    seconds: float = 6.0
    rate: int = 44100
    level: float = 0.06
    distortions: list[str] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [0])
    metrics: list[str] = field(default_factory=list)
    embeddings: dict[str, str | None] = field(default_factory=dict)
    compare_to: str = "observed"
    aspade: str = "survey"
    weights: dict[str, str] = field(default_factory=dict)
    save_audio: bool = False
    patience_minutes: float = 60.0
    restore: RestoreConfig = field(default_factory=RestoreConfig)
    smoke: list[str] = field(default_factory=list)
    smoke_run: bool = False


def load_experiment(path: Path, data: Path | None, smoke: bool, overrides: list[str]) -> EvaluationConfig:
    """Read the configuration of an experiment.

    Args:
        path: YAML file.
        data: folder to use instead of the file's `data`.
        smoke: apply the file's `smoke` changes.
        overrides: `key=value` changes, applied last.

    Raises:
        NldiffError: as `load_config`.
    """
    given = ([f"data={json.dumps(str(data))}"] if data else []) + overrides
    config = load_config(EvaluationConfig, path, given)
    return load_config(EvaluationConfig, path, [*config.smoke, "smoke_run=true", *given]) if smoke else config


def check_experiment(config: EvaluationConfig) -> None:
    """Validate up front that names are known and numbers are in their ranges.

    Distortions and data are validated where they are read.

    Raises:
        NldiffError: a name is unknown, or a number is out of its range.
    """
    for key in ("distortions", "methods", "seeds"):
        if not getattr(config, key):
            raise NldiffError(f"{key}: at least one expected")
    require(config, "", ("seconds",), least=sound.MIN_SECONDS)
    require(config, "", ("rate",), least=1)
    require(config, "", ("files", "pieces", "level", "patience_minutes", "seeds"), least=0)
    for method in (*config.methods, config.compare_to):
        if method not in METHODS:
            raise NldiffError(f"unknown method '{method}' (known: {', '.join(METHODS)})")
    for network in config.weights:
        if network not in NETWORKS:
            raise NldiffError(f"weights.{network}: one of {', '.join(NETWORKS)} expected")
    if config.aspade not in PRESETS:
        raise NldiffError(f"aspade={config.aspade}: one of {', '.join(PRESETS)} expected")
    check_metrics(config.metrics, config.embeddings)
