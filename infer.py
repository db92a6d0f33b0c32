"""Restore distorted recordings: ``python infer.py INPUT [INPUT ...] --output DIR``."""

from nldiff.cli import infer_main

if __name__ == "__main__":
    raise SystemExit(infer_main())
