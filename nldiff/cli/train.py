"""`nldiff train` and `train_prior.py`."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from nldiff.cli.trainings import add_training_arguments, run_training
from nldiff.config import find_config, read_key
from nldiff.errors import NldiffError
from nldiff.training.prior import TrainingConfig, train
from nldiff.training.refinement import RefinementConfig, train_refinement

add_arguments = partial(add_training_arguments, kind="train")

_TRAININGS: dict[str, tuple[type[Any], Callable[..., Any]]] = {
    "prior": (TrainingConfig, train),
    "refinement": (RefinementConfig, train_refinement),
}


def run(options: argparse.Namespace) -> int:
    """Train what the configuration describes: a prior or, with `trains: refinement`, a refinement network."""
    what = read_key(find_config(options.config, options.kind), "trains", "prior")
    if what not in _TRAININGS:
        raise NldiffError(f"configuration {options.config}: trains: {what}: {' or '.join(_TRAININGS)} expected")
    return run_training(options, *_TRAININGS[what])
