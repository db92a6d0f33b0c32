"""Time of the stages of a restoration: ``python benchmarks/stages.py [INPUT] [key=value ...]``.

Wall and CPU seconds of each per second of audio, from reading to writing, in a process of its own for every number of
threads. Stages that contain others are told without them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import soundfile

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "guit_em9_distorted.flac"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a Markdown table: a row for every stage, two columns for every number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("input", nargs="?", type=Path, default=EXAMPLE, help="recording (default: the example)")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="any setting of infer.py")
    parser.add_argument("--prior", default="auto", help="shipped prior, prior file or auto (default: auto)")
    parser.add_argument("--known", metavar="NAME:PARAM=VALUE,…", help="the distortion, if it is known")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads (default: 1 2)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    command = ["--prior", options.prior, *options.settings, *(["--known", options.known] if options.known else [])]
    if options.measure:
        return measure(options.input, command)
    columns: list[dict[str, list[str]]] = []
    for threads in options.threads:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
        run = [sys.executable, __file__, str(options.input), *command, "--measure"]
        done = subprocess.run(run, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return done.returncode
        columns.append({row.split("\t")[0]: row.split("\t")[1:] for row in done.stdout.splitlines()})
    print("| stage | " + " | ".join(f"wall, {n} thr. | CPU, {n} thr." for n in options.threads) + " |")
    print("|---|" + "---:|" * (2 * len(columns)))
    for stage in columns[0]:
        print(f"| {stage} | " + " | ".join(cell for column in columns for cell in column[stage]) + " |")
    return 0


@dataclass
class Clock:
    """Seconds of every stage, without the stages within it.

    Attributes:
        seconds: stage -> [wall, CPU of the process].
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    _now: str = "everything else"
    _since: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))

    def enter(self, stage: str) -> str:
        """Count what follows for a stage; returns the one before."""
        wall, cpu = time.perf_counter(), time.process_time()
        spent = self.seconds.setdefault(self._now, [0.0, 0.0])
        spent[0] += wall - self._since[0]
        spent[1] += cpu - self._since[1]
        before, self._now, self._since = self._now, stage, (wall, cpu)
        return before

    def watch(self, owner: Any, name: str, stage: str | Callable[..., str]) -> None:
        """Count every call of a function for a stage, which may depend on the arguments."""
        function = getattr(owner, name)

        @wraps(function)
        def watched(*given: Any, **named: Any) -> Any:
            before = self.enter(stage if isinstance(stage, str) else stage(*given, **named))
            try:
                return function(*given, **named)
            finally:
                self.enter(before)

        setattr(owner, name, watched)


def measure(source: Path, command: list[str]) -> int:
    """Restore in this process; prints a row for every stage, columns separated by tabs."""
    clock = Clock({"start of Python": [0.0, time.process_time()]})
    clock.enter("import")
    from nldiff import cli
    from nldiff.cli import restore
    from nldiff.restoration import diffusion, estimation, output, strategies, workspace

    clock.enter("everything else")
    clock.watch(restore, "load_candidates", "reading priors")
    clock.watch(diffusion, "choose_prior", "choice of the prior")
    clock.watch(diffusion, "estimate_operator", "hypotheses")
    clock.watch(workspace.Workspace, "sampled", "sampling")
    clock.watch(workspace.Workspace, "refined", "refining for the curve")
    clock.watch(workspace.Workspace, "restored", "refining the signal")
    clock.watch(workspace.Workspace, "finished", "polish")
    for module in (estimation, strategies):
        for name in {"judge", "spread"} & set(vars(module)):
            clock.watch(module, name, "evidence")
    clock.watch(output, "_write_all", "writing and drawing")
    with tempfile.TemporaryDirectory() as folder:
        code = cli.run_command("restore", [str(source), "--output", folder, "--quiet", *command], "nldiff restore")
    clock.enter("end")
    seconds = soundfile.info(source).duration
    total = [sum(column) for column in zip(*clock.seconds.values(), strict=True)]
    for stage, spent in (clock.seconds | {"together": total}).items():
        print(stage, *(f"{s / seconds:.2f}" for s in spent), sep="\t")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
