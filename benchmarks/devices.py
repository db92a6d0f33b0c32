"""Devices with memory: how well random ones are identified from pairs, and found from effected audio alone.

A device is a second-order peak (frequency 200 to 3000 Hz and q 0.5 to 4, both log-uniform; gain 4 to 12 dB of either
sign), `tanh(g x) / g` (g log-uniform, 8 to 40, for audio at an RMS of 0.06) and a second-order low-pass at 4 kHz. Clips
are the first 5 s of files, at an RMS of 0.06; the first four are effected, the next four are unseen.

    python benchmarks/devices.py paired FOLDER
    python benchmarks/devices.py unpaired FOLDER --devices 0 1 --steps 25

`paired`: error-to-signal ratio in dB of what `nldiff.identify` finds. `unpaired`: multi-resolution STFT distance on the
unseen clips of a Wiener-Hammerstein operator that was fitted inside posterior sampling to the effected clips, and of
the best of four curves without memory, which are told the clean clips: the identity at the right level, the
least-squares curve, the one that matches the distributions, and the device's own curve at the right level.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from nldiff import sound
from nldiff.curves import Curve
from nldiff.identification import identify
from nldiff.metrics.mrstft import mrstft
from nldiff.operators import Chain, Distortion, Operator, WienerHammerstein
from nldiff.priors import load_prior
from nldiff.restoration.settings import RestoreConfig, resolve_settings
from nldiff.sampling import CompressedSTFTCost, generators, sample
from nldiff.sampling.start import STARTS

LEVEL, SECONDS, COUNT = 0.06, 5.0, 4
_POINTS = 2000


def random_device(seed: int, sample_rate: int) -> Chain:
    """The device of a seed, as the text above says."""
    random = np.random.default_rng(seed)

    def between(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    hz = between(200, 3000)
    gain_db = float(random.choice([-1, 1]) * random.uniform(4, 12))
    q, gain = between(0.5, 4), between(8, 40)
    parts = [
        Distortion("peak", {"hz": hz, "gain_db": gain_db, "q": q}),
        Distortion("soft_clip", {"gain": gain}),
        Distortion("steep_lowpass", {"hz": 4000.0}),
    ]
    return Chain([part.for_rate(sample_rate) for part in parts])


def clips(folder: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Clean clips [4, time] to effect, as many unseen ones, and their rate."""
    found: list[np.ndarray] = []
    rates: set[int] = set()
    for path in sound.find_audio([folder]):
        info = sound.probe(path)
        frames = round(SECONDS * info.sample_rate)
        if info.frames >= frames and len(found) < 2 * COUNT:
            samples = sound.read(path, 0, frames)[0][0].astype(np.float64)
            found.append(LEVEL * samples / np.std(samples))
            rates.add(info.sample_rate)
    (rate,) = rates
    return np.stack(found[:COUNT]), np.stack(found[COUNT:]), rate


def distorted(operator: Operator, x: np.ndarray) -> np.ndarray:
    """What an operator makes of clips [count, time]."""
    with torch.no_grad():
        return operator(torch.from_numpy(x).float()).double().numpy()


def esr_db(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Error-to-signal ratio, dB."""
    return float(10 * np.log10(np.sum((truth - estimate) ** 2) / np.sum(truth**2)))


def paired(folder: Path, devices: list[int]) -> None:
    """Identify devices from pairs; a row for each."""
    x, unseen, rate = clips(folder)
    print("| device | held out, dB | unseen clips, dB | s |\n|---|---|---|---|")
    for seed in devices:
        device, started = random_device(seed, rate), time.monotonic()
        found = identify(x.reshape(1, -1), distorted(device, x.reshape(1, -1)), rate)
        seconds = time.monotonic() - started
        error = esr_db(distorted(device, unseen), distorted(found.operator, unseen))
        print(f"| {seed} | {found.held_out_esr_db:.1f} | {error:.1f} | {seconds:.0f} |", flush=True)


def memoryless(x: np.ndarray, y: np.ndarray, device: Chain, rate: int) -> dict[str, Curve]:
    """Curves that are told the clean clips."""
    limit = 2 * float(np.abs(x).max())
    own = device.operators[1]
    bent = distorted(own, x)
    shares = np.linspace(0, 1, _POINTS)
    return {
        "identity": Curve([-limit, limit], [-limit * np.std(y) / np.std(x), limit * np.std(y) / np.std(x)]),
        "least squares": identify(x.reshape(1, -1), y.reshape(1, -1), rate, "curve").curve,
        "distributions": Curve(np.quantile(x, shares), np.quantile(y, shares)),
        "its own": Curve.from_function(lambda v: distorted(own, v) * np.std(y) / np.std(bent), limit),
    }


def unpaired(folder: Path, devices: list[int], steps: int) -> None:
    """Fit operators inside posterior sampling; a row for each device."""
    x, unseen, rate = clips(folder)
    prior = load_prior("guitar")
    # sampling starts from audio that lacks what the device removed: a warm-up would take the filters for flat
    fit = {"segments": 1, "segment_length": 32768, "warmup": 0}
    settings = resolve_settings(prior, RestoreConfig(sampler={"steps": steps}, operator_fit=fit))
    print("| device | best curve without memory | its distance | found | ratio | s |\n|---|---|---|---|---|---|")
    for seed in devices:
        device, started = random_device(seed, rate), time.monotonic()
        # the gain of the recording is unknown: it comes at the level of the prior
        gain = LEVEL / float(np.std(distorted(device, x)))
        y, truth = distorted(device, x) * gain, distorted(device, unseen) * gain
        observed = torch.from_numpy(y).float()
        operator = WienerHammerstein(1, rate)
        operator.reset(observed, generators([seed]))
        sample(
            prior.denoiser, observed, operator, settings.sampler.schedule(), settings.sampler,
            generators(range(COUNT)), fit=settings.operator_fit, cost=CompressedSTFTCost(settings.cost),
            start=STARTS["histogram"](y, LEVEL)(observed), level=LEVEL, batch_size=1,
        )  # fmt: skip
        seconds = time.monotonic() - started
        found = float(np.mean(mrstft(truth, distorted(operator, unseen))))
        curves = memoryless(x, y, device, rate)
        distances = {name: float(np.mean(mrstft(truth, curve(unseen)))) for name, curve in curves.items()}
        name = min(distances, key=distances.__getitem__)
        best = distances[name]
        print(f"| {seed} | {name} | {best:.3f} | {found:.3f} | {found / best:.2f} | {seconds:.0f} |", flush=True)


def main() -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["paired", "unpaired"])
    parser.add_argument("folder", type=Path, help="clean guitar audio of one rate, at least eight files of 5 s")
    parser.add_argument("--devices", type=int, nargs="+", default=list(range(5)), metavar="SEED")
    parser.add_argument("--steps", type=int, default=25, metavar="N")
    options = parser.parse_args()
    if options.kind == "paired":
        paired(options.folder, options.devices)
    else:
        unpaired(options.folder, options.devices, options.steps)


if __name__ == "__main__":
    main()
