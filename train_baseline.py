"""Train a comparison network: ``python train_baseline.py --config configs/baselines/NAME.yaml [key=value ...]``."""

from nldiff.cli import train_baseline_main

if __name__ == "__main__":
    raise SystemExit(train_baseline_main())
