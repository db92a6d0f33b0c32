"""Draws the pictures of the README: restores the example recording and compares with the clean original.

python docs/make_pictures.py [key=value ...]
"""

import sys
from pathlib import Path

import numpy as np
import soundfile

from nldiff.config import load_config
from nldiff.figures.plots import plot_curves, plot_spectrograms, save_figure
from nldiff.metrics.rr_mse import input_gain
from nldiff.metrics.sdr import si_sdr
from nldiff.restoration.pipeline import restore
from nldiff.restoration.settings import RestoreConfig

HERE = Path(__file__).parent
DRIVE, OUTPUT_LEVEL = 17.4, 0.5  # of the example, see examples/README.md


def main() -> None:
    """Restore, print the scores, write docs/curve.png and docs/spectrograms.png."""
    clean, rate = soundfile.read(HERE.parent / "examples/guit_em9.flac", dtype="float32")
    observed, _ = soundfile.read(HERE.parent / "examples/guit_em9_distorted.flac", dtype="float32")
    result = restore(observed, rate, config=load_config(RestoreConfig, None, sys.argv[1:]))

    def truth(x: np.ndarray) -> np.ndarray:
        return OUTPUT_LEVEL * np.tanh(DRIVE * x)

    sigma = float(np.std(clean))
    gain, _ = input_gain(lambda r: truth(r.numpy()), lambda r: result.curve(r.numpy()), sigma, fit_scale=True)
    grid = np.linspace(-3.5 * sigma, 3.5 * sigma, 801)
    estimate = {"estimated": result.curve(gain * grid)}
    save_figure(plot_curves(estimate, grid, truth(grid), title="Transfer curve"), HERE / "curve.png")
    signals = {"distorted": observed, "restored": result.audio, "clean original": clean}
    level = {name: signal / np.sqrt(np.mean(signal**2)) * 0.1 for name, signal in signals.items()}
    save_figure(plot_spectrograms(level, rate, fmax=6000), HERE / "spectrograms.png")
    print(f"SI-SDR {si_sdr(clean, observed):.2f} -> {si_sdr(clean, result.audio):.2f} dB")


if __name__ == "__main__":
    main()
