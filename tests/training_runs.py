"""What the tests of trainings share: reading a run's files, starting a run as a program, killing it."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import yaml

from nldiff.training_loop import LoopConfig

ROOT = Path(__file__).parents[1]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def losses(run_dir: str | Path) -> list[float]:
    return [float(row["loss"]) for row in rows(Path(run_dir) / "loss.csv")]


def write_yaml(config: LoopConfig, path: Path) -> Path:
    settings = asdict(config)
    path.write_text(yaml.safe_dump({**settings, "betas": list(settings["betas"])}))
    return path


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}


def kill_a_run(script: str, settings: Path, run_dir: Path, earliest: float, latest: float) -> float:
    """Start a training and kill it at some moment between two steps; returns the moment, in steps."""
    command = [sys.executable, str(ROOT / script), "--config", str(settings), "--quiet"]
    moment = random.uniform(earliest, latest)
    process = subprocess.Popen(command, env=environment())
    limit = time.monotonic() + 240
    try:
        while not (run_dir / "loss.csv").exists() or len(rows(run_dir / "loss.csv")) < moment:
            assert process.poll() is None, "the run ended before it was killed"
            assert time.monotonic() < limit
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.02))
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    return moment


def run_two_processes(script: str, settings: Path) -> None:
    """Run a training to its end in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, str(ROOT / script), "--config", str(settings), "--quiet"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
