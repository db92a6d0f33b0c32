"""Train a prior: ``python train_prior.py --config configs/train/guitar_small.yaml [key=value ...]``."""

import sys

from nldiff.cli import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("train", sys.argv[1:], "train_prior.py"))
