"""Scores of a prior on clean test clips: distort, restore, compare; rows go to a CSV file, medians to a table.

    python benchmarks/accuracy.py --data DIR --out out/accuracy.csv [--methods ccr mlp sumtanh informed]

Every clip is cut to its first seconds and brought to RMS 0.06, distorted, restored with default settings and scored
against the truth. Cells that the CSV file already has are not run again, so an interrupted run goes on where it was;
`--shard 0/2` and `--shard 1/2` share the work between two processes with a file each. `--table` prints the medians of
all files given to `--out`.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch

from nldiff import audio as audio_io
from nldiff.config import load_config
from nldiff.files import applied_distortion, scores
from nldiff.nonlinearities import parse_distortion
from nldiff.priors import Prior, load_prior
from nldiff.restore import restore
from nldiff.settings import RestoreConfig, choose_device
from nldiff.waveshapers import WAVESHAPERS

DISTORTIONS = (
    "hard_clip:sdr=3",
    "soft_clip:sdr=3",
    "half_wave",
    "wavefold:threshold=0.1",
    "quantize:step=0.125",
    "hard_clip:sdr=1",
    "hard_clip:sdr=7",
)
COLUMNS = (
    "distortion", "method", "clip", "seed", "si_sdr_in", "si_sdr_out", "lsd_in", "lsd_out", "rr_mse", "rr_mse_fitted",
    "explained_db", "seconds",
)  # fmt: skip
_LEVEL = 0.06


def main() -> None:
    """Run the cells of this shard, then print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of clean clips")
    parser.add_argument("--out", type=Path, nargs="+", required=True, help="CSV file; several only with --table")
    parser.add_argument("--table", action="store_true", help="only print the medians")
    parser.add_argument("--prior", default="guitar")
    parser.add_argument("--clips", type=int, default=14, help="how many of the clips, in alphabetical order")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--distortions", nargs="+", default=DISTORTIONS)
    parser.add_argument("--methods", nargs="+", default=["ccr"], choices=[*WAVESHAPERS, "informed"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th clip from the i-th on")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as for nldiff restore")
    options = parser.parse_intermixed_args()
    if not options.table:
        run(options)
    print(table([row for path in options.out for row in read_rows(path)]))


def run(options: argparse.Namespace) -> None:
    """Compute the missing cells, method by method, and append each to the CSV file."""
    torch.set_num_threads(options.threads)
    (out,) = options.out
    index, count = map(int, options.shard.split("/"))
    prior = load_prior(options.prior, choose_device(options.device))
    done = {(r["distortion"], r["method"], r["clip"], r["seed"]) for r in read_rows(out)}
    out.parent.mkdir(parents=True, exist_ok=True)
    clips = audio_io.find_audio([options.data])[: options.clips][index::count]
    for method in options.methods:
        for distortion in options.distortions:
            for clip in clips:
                if (distortion, method, clip.name, str(options.seed)) not in done:
                    append(out, cell(clip, distortion, method, prior, options))


def cell(clip: Path, text: str, method: str, prior: Prior, options: argparse.Namespace) -> dict[str, object]:
    """Scores of one clip, distortion and method."""
    rate = audio_io.probe(clip).sample_rate
    clean = audio_io.read(clip, 0, round(options.seconds * rate))[0]
    clean *= np.float32(_LEVEL / audio_io.rms(clean))
    truth = applied_distortion(clean, *parse_distortion(text))
    observed = truth(torch.from_numpy(clean)).numpy()
    config = load_config(RestoreConfig, None, [f"seed={options.seed}", *options.overrides])
    informed = method == "informed"
    if not informed:
        config.waveshaper = method
    started = time.monotonic()
    result = restore(observed, rate, prior, known=truth if informed else None, config=config)
    found = scores(clean, observed, result.audio, truth, result.curve)
    values = (
        text, method, clip.name, options.seed, found["before"]["si_sdr_db"], found["after"]["si_sdr_db"],
        found["before"]["lsd"], found["after"]["lsd"], found["after"]["rr_mse_unfitted_db"],
        found["after"]["rr_mse_db"], result.explained_db, time.monotonic() - started,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file; none if it does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, object]) -> None:
    """Add a row, with the header if the file is new."""
    new = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})


def table(rows: list[dict[str, str]]) -> str:
    """Medians over clips as a Markdown table."""
    lines = [
        "| distortion | method | clips | SI-SDR in | SI-SDR out | gain (worst … best) | LSD in | LSD out "
        "| RR-MSE | RR-MSE, scale fitted | explained | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["distortion"], row["method"]) for row in rows):
        group = [row for row in rows if (row["distortion"], row["method"]) == key]
        values = {c: np.array([float(row[c]) for row in group]) for c in COLUMNS[4:]}
        median = {c: float(np.median(v)) for c, v in values.items()}
        gain = values["si_sdr_out"] - values["si_sdr_in"]
        lines.append(
            f"| {key[0]} | {key[1]} | {len(group)} | {median['si_sdr_in']:.2f} | {median['si_sdr_out']:.2f} "
            f"| {np.median(gain):+.2f} ({gain.min():+.1f} … {gain.max():+.1f}) | {median['lsd_in']:.2f} "
            f"| {median['lsd_out']:.2f} | {median['rr_mse']:.1f} | {median['rr_mse_fitted']:.1f} "
            f"| {median['explained_db']:.1f} | {median['seconds']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
