"""`nldiff train` and `train_prior.py`."""

import argparse
from functools import partial

from nldiff.cli.trainings import add_training_arguments, run_training
from nldiff.training.prior import TrainingConfig, train

add_arguments = partial(add_training_arguments, kind="train")


def run(options: argparse.Namespace) -> int:
    """Train the prior that the configuration describes."""
    return run_training(options, TrainingConfig, train)
