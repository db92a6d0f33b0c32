"""Restore distorted recordings: ``python infer.py INPUT [INPUT ...] --output DIR``."""

import sys

from nldiff.cli import run_command

if __name__ == "__main__":
    raise SystemExit(run_command("restore", sys.argv[1:], "infer.py"))
