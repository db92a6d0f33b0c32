"""The summary that `nldiff restore` prints."""

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from command_line import quick_sampler, report, run, samples
from helpers import TINY_RATE, FakeSampler, plucked, save_tiny_prior

from nldiff.cli.summary import summary
from nldiff.restoration.output import Outputs


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_prior(tmp_path_factory.mktemp("prior") / "tiny.safetensors")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    return quick_sampler(monkeypatch)


def test_the_summary_says_what_was_found(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    path = tmp_path / "clean.wav"
    samples(plucked(0.3, TINY_RATE))(path)
    assert run(prior, tmp_path / "out", path, "--distort", "hard_clip:sdr=3") == 0
    out = capsys.readouterr().out
    made = report(tmp_path / "out", "clean")
    assert out.startswith(f"clean.wav -> {tmp_path / 'out' / 'clean.restored.wav'}\n")
    assert "3 steps, 3 evaluations of the prior" in out
    assert f"to {made['explained_db']:.1f} dB" in out
    for when in ("before", "after"):
        assert f"SI-SDR {made['scores'][when]['si_sdr_db']:.2f} dB" in out
    # the curve is still the identity it started as: the last point of the table is the peak
    last = out.split("->")[-1].split()[0]
    assert float(last) == pytest.approx(np.max(np.abs(sf.read(tmp_path / "out" / "clean.restored.wav")[0])), abs=2e-3)


def test_the_curve_is_told_where_the_samples_are(
    prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: FakeSampler
) -> None:
    x = plucked(3.0, TINY_RATE)
    x[12000] = 0.95  # a single sample far beyond the others
    samples(x)(tmp_path / "take.wav")
    assert run(prior, tmp_path / "out", tmp_path / "take.wav") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "curve (restored" in line)
    points = [float(pair.split()[0]) for pair in line.split(": ")[1].split("  ")]
    peak = report(tmp_path / "out")["curve_range"]
    assert points == pytest.approx([-peak, -0.5 * peak, -0.1 * peak, 0.1 * peak, 0.5 * peak, peak], abs=1e-3)
    assert 0.4 < peak < 0.6


def test_of_what_comes_back_as_it_is_the_summary_says_no_more_than_that(tmp_path: Path) -> None:
    verdict = {"finding": "nothing happened", "log_odds": {}, "unchanged": True, "expected_sdr_db": None}
    made = {
        "prior": "guitar", "prior_scores": {}, "cost": [], "network_evaluations": 0, "seconds": 2.0, "seed": 0,
        "verdict": verdict, "parts": [{"channels": [1], "verdict": verdict}], "level_db": 0.0,
    }  # fmt: skip
    missing = tmp_path / "missing"
    lines = summary(Path("take.wav"), Outputs(missing / "take.restored.wav", missing, missing, missing, made))
    assert lines.splitlines()[1:] == [
        "  verdict: nothing happened",
        "  2 s, seed 0",
        "  prior guitar, as named",
    ]
