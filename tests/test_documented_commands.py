"""What README and documentation tell readers to type works as it is written, page by page, each in a new folder.

The recordings are short stand-ins, and the shipped priors are replaced by a tiny one, whose own settings are quick.
What would still take long gets the changes of `QUICKER` behind it; what is not run is in `LEFT_OUT`, with the reason.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf
import torch
from helpers import TINY_RATE, TINY_SETTINGS, clipped, plucked, save_tiny_prior
from scipy.signal import lfilter

from nldiff.cli import main
from nldiff.config import find_config
from nldiff.evaluation.config import load_experiment
from nldiff.priors import choice, load_prior

ROOT = Path(__file__).parents[1]
TRAINING = "steps=1 train_weights={} val_items=1"
# Beginning of a command -> what makes it quick.
QUICKER = {
    "nldiff train --config": f"{TRAINING} samples_per_step=23040 segment_lengths=[23040] val_length=23040 --quiet",
    "nldiff train-baseline": "train_data=my/train val_data=my/val run_dir=out/network steps=1 train_weights={} "
    "samples_per_step=22050 val_length=22050 --quiet",
    "nldiff restore take.wav --prior out/mine": "sampler.steps=2 operator_fit.iterations=2 refinement.name=none "
    "evidence.judge=false",
    "nldiff restore take.wav other.wav --same-operator": "sampler.steps=2 operator_fit.iterations=2",
    "nldiff evaluate guitar --data": "--smoke --quiet methods=[observed] metrics=[si_sdr] seconds=1",
}
LEFT_OUT = {
    "make ": "each is a step of its own of what is run before a change is merged",
    "pip ": "an environment exists where this runs; 'make package' installs into new ones",
    "torchrun ": "several processes; tests of experiments and training start some",
    "VGGish(": "weights that do not come with nldiff",
    "nldiff app": "goes on until it is ended; tests/app runs it",
}
# Experiments of hours: their configuration and what is changed of it are read and checked.
READ_ONLY = re.compile(r"nldiff evaluate (\w+) (.*=.*)")


@dataclass(frozen=True)
class Block:
    """A command, or Python code, and the line of the page that it begins at."""

    line: int
    text: str
    python: bool


def blocks(page: Path) -> list[Block]:
    """Commands and Python code of a page, in order."""
    found: list[Block] = []
    code: list[str] = []
    fence = ""
    text = re.sub(r" *\\\n *", " ", page.read_text(encoding="utf-8"))  # a command may go on in the next line
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            if fence == "python":
                found.append(Block(number, "\n".join(code), True))
            fence, code = (line[3:].strip() or "text", []) if not fence else ("", [])
        elif fence:
            code.append(line)
        elif command := re.match(
            r"(?: {4}| {8})((?:\.venv/bin/)?(?:nldiff|make|pip|torchrun|ffmpeg|python3?) .*)", line
        ):
            found.append(Block(number, command[1].removeprefix(".venv/bin/"), False))
    return found


PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if blocks(path)
)


@pytest.fixture(scope="module")
def prior_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing that it makes is believed: the recording comes back, with a curve that has an inverse."""
    settings = {name: value for name, value in TINY_SETTINGS.items() if name != "evidence"}
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors", settings=settings)


@pytest.fixture(autouse=True)
def _tiny_prior(prior_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = load_prior(prior_file, dtype=torch.float32)
    monkeypatch.setattr(
        choice, "load_prior", lambda name, *rest: original(name, *rest) if name_is_file(name) else prior
    )


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recordings that the pages name."""
    here = tmp_path_factory.mktemp("recordings")
    for name in ("my/train", "my/val", "clips", "examples", "out"):
        (here / name).mkdir(parents=True)
    for name in ("take3.wav", "take.wav", "other.wav", "examples/guit_em9_distorted.flac", "take.mov"):
        end = ".wav" if name.endswith(".mov") else Path(name).suffix
        sf.write(here / f"x{end}", clipped(0.5, TINY_RATE).T, TINY_RATE)
        (here / f"x{end}").rename(here / name)  # a container is recognised by what it holds
    for name in ("my/train/a.wav", "my/val/a.wav", "clips/a.wav"):
        sf.write(here / name, plucked(3.0, 44100), 44100)
    clean = plucked(1.0, TINY_RATE)
    for name, samples in (("clean", clean), ("observed", lfilter([0.5, 0.5], [1], clean.clip(-0.15, 0.15)))):
        sf.write(here / f"{name}.wav", samples, TINY_RATE)
    return here


@pytest.fixture
def folder(recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recordings, for one page to work on."""
    shutil.copytree(recordings, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


original = choice.load_prior


def name_is_file(name: Any) -> bool:
    """Whether a prior is meant by its file."""
    return Path(str(name)).is_file()


def run(command: str, folder: Path, prior: Path) -> None:
    """Run a command, in this process where it is one of nldiff alone."""
    command = command.split("  #")[0].split(" # ")[0].strip()
    if any(command.startswith(start) for start in LEFT_OUT):
        return
    if (found := READ_ONLY.fullmatch(command)) and "--data" not in command:
        load_experiment(find_config(found[1], "eval"), folder / "clips", False, found[2].split())
        return
    more = next((more for start, more in QUICKER.items() if command.startswith(start)), "")
    words = shlex.split(f"{command} {more}".replace("/my/clean/clips", str(folder / "clips")))
    if "|" in command:
        (folder / "bin").mkdir(exist_ok=True)
        program = folder / "bin" / "nldiff"
        program.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -m nldiff "$@" --prior "{prior}" evidence.judge=false\n'
        )
        program.chmod(0o755)
        variables = os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        subprocess.run(["bash", "-o", "pipefail", "-c", command], env=variables, check=True, capture_output=True)
        return
    assert words[0] == "nldiff", f"unknown program: {command}"
    try:
        assert main(words[1:]) == 0
    except SystemExit as end:
        assert end.code == 0


@pytest.mark.parametrize("page", PAGES)
def test_a_page_works_as_it_is_written(page: str, folder: Path, prior_file: Path) -> None:
    found = blocks(ROOT / page)
    texts = [block.text for block in found]
    if any("restored/" in text for text in texts) and not any(t.startswith("nldiff restore take3") for t in texts):
        assert main(["restore", "take3.wav", "--quiet"]) == 0  # an earlier page did that
    audio, rate = sf.read("take3.wav")
    clean, restored = (plucked(1.0, 44100, seed)[None] for seed in (0, 1))
    names: dict[str, Any] = {"audio": audio.T, "rate": rate, "clean": clean, "restored": restored}
    for block in found:
        try:
            if block.python and any(words in block.text for words in LEFT_OUT):
                continue
            if block.python:
                exec(compile(block.text, f"{page}:{block.line}", "exec"), names)
            else:
                run(block.text, folder, prior_file)
        except Exception as error:
            raise AssertionError(f"{page}, line {block.line}: {block.text}") from error


def test_everything_that_looks_like_a_command_is_found() -> None:
    counts = {page: len(blocks(ROOT / page)) for page in PAGES}
    assert counts["README.md"] >= 9 and counts["docs/tutorials/prior.md"] == 3
    assert counts["docs/restoring.md"] == 5 and counts["docs/comparison.md"] == 7
