"""Train a prior: ``python train_prior.py --config configs/train/guitar_small.yaml [key=value ...]``."""

from nldiff.cli import train_main

if __name__ == "__main__":
    raise SystemExit(train_main())
