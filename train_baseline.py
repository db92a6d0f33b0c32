"""Train a comparison network: ``python train_baseline.py --config configs/baselines/NAME.yaml [key=value ...]``."""

import sys

from nldiff.cli import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("train-baseline", sys.argv[1:], "train_baseline.py"))
