"""`nldiff train-baseline` and `train_baseline.py`."""

import argparse
from functools import partial

from nldiff.cli.trainings import add_training_arguments, run_training
from nldiff.training.baseline import SupervisedConfig, train_supervised

add_arguments = partial(add_training_arguments, kind="baselines")


def run(options: argparse.Namespace) -> int:
    """Train the comparison network that the configuration describes."""
    return run_training(options, SupervisedConfig, train_supervised)
