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

from nldiff.training.loop import LoopConfig

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


# Runs a script and fails if it leaves threads of the process group, which may abort while the interpreter ends.
_WITHOUT_LEFTOVERS = """
import pathlib, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    names = [path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    left = [name for name in names if "gloo" in name]
    sys.exit(end.code or (f"left running: {left}" if left else 0))
"""


def run_two_processes(script: str, settings: Path) -> None:
    """Run a training to its end in two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    watched = [sys.executable, "-c", _WITHOUT_LEFTOVERS, str(ROOT / script)]
    command = [*launcher, *watched, "--config", str(settings), "--quiet"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
