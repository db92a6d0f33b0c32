"""Random smooth curves with two turning points: how well they are found, and undone, from the recording alone.

The slope of a curve is `tanh((a - x) / w) tanh((x + b) / w) exp(s(x))`, with x in multiples of the clean signal's RMS,
0.06. The turning points a and b are uniform from 1.3 to 2.2, w is uniform from 0.3 to 1, and s is the sum of three
cosines of random phase with periods of 8, 4 and 8/3 and normal amplitudes of standard deviation 0.25, 0.17 and 0.125.
The curve of number n distorts the first seconds of clip n of a folder (in turn, from half a second on).

    python benchmarks/random_folds.py FOLDER
    python benchmarks/random_folds.py FOLDER --curves 0 1 2 --seconds 4
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import nldiff
from nldiff import sound
from nldiff.metrics import si_sdr
from nldiff.operators import TabulatedCurve
from nldiff.priors.choice import load_candidates
from nldiff.restoration.settings import RestoreConfig

_RMS, _OFFSET, _LARGEST, _POINTS = 0.06, 0.5, 12.0, 120_001
_PERIODS, _DEVIATIONS = (8.0, 4.0, 8 / 3), (0.25, 0.25 / 1.5, 0.125)


def random_fold(seed: int) -> TabulatedCurve:
    """The curve of a seed, as the text above says."""
    random = np.random.default_rng(seed)
    (a, b), w = random.uniform(1.3, 2.2, 2), random.uniform(0.3, 1.0)
    amplitudes, phases = random.normal(0, _DEVIATIONS), random.uniform(0, 2 * np.pi, len(_PERIODS))
    x = np.linspace(-_LARGEST, _LARGEST, _POINTS)
    waves = zip(amplitudes, _PERIODS, phases, strict=True)
    bend = sum(amplitude * np.cos(2 * np.pi * x / period + phase) for amplitude, period, phase in waves)
    slope = np.tanh((a - x) / w) * np.tanh((x + b) / w) * np.exp(bend)
    y = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(x))])
    return TabulatedCurve(torch.from_numpy(x * _RMS), torch.from_numpy((y - np.interp(0, x, y)) * _RMS))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the curves that the arguments name, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of clean clips")
    parser.add_argument("--curves", type=int, nargs="+", default=list(range(10)), help="numbers (default: 0 to 9)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of every clip (default: 4)")
    parser.add_argument("--prior", default="auto", help="guitar, speech or a file (default: auto)")
    arguments = parser.parse_args(argv)
    config = RestoreConfig(device="cpu")
    priors, paths = load_candidates(arguments.prior, torch.device("cpu")), sound.find_audio([arguments.folder])
    print("curve  clip                      before    told   blind  dB; hypothesis and time of the blind restoration")
    for number in arguments.curves:
        path = paths[number % len(paths)]
        audio, rate = sound.read(path)
        first = round(_OFFSET * rate)
        x = audio[:1, first : first + round(arguments.seconds * rate)]
        x = (x * (_RMS / np.sqrt(np.mean(x.astype(np.float64) ** 2)))).astype(np.float32)
        curve = random_fold(number)
        y = curve(torch.from_numpy(x)).numpy()
        told = nldiff.restore(y, rate, priors, known=curve, config=config)
        start = time.perf_counter()
        blind = nldiff.restore(y, rate, priors, config=config)
        seconds = time.perf_counter() - start
        scores = [float(si_sdr(x, each).mean()) for each in (y, told.audio, blind.audio)]
        sampling = blind.parts[0].fit.sampling
        verdict = sampling.verdict if sampling else None
        decibels = "  ".join(f"{score:6.1f}" for score in scores)
        said = verdict.hypothesis if verdict else "nothing"
        print(f"{number:5}  {path.stem[:24]:24}  {decibels}  {said}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
