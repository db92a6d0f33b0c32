"""Time and memory of the parts of one restoration step: ``python benchmarks/steps.py [NETWORK ...]``.

Every network is measured in a process of its own, because the peak of a process's memory never falls.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from nldiff.config import load_config
from nldiff.devices import choose_device, fast_dtype
from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.networks.cqtunet import CQTUNet
from nldiff.operators import WAVESHAPERS, make_waveshaper
from nldiff.priors import Prior, load_prior
from nldiff.priors.edm import EDMDenoiser
from nldiff.restoration.settings import RestoreConfig, resolve_settings
from nldiff.sampling import CompressedSTFTCost, Step, generators, sample
from nldiff.training.prior import TrainingConfig

CONFIGS = Path(__file__).parents[1] / "configs" / "train"
NETWORKS = [str(CONFIGS / f"{name}.yaml") for name in ("guitar_small", "guitar_paper", "speech_small", "speech_paper")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one Markdown table per network."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "networks",
        nargs="*",
        metavar="NETWORK",
        default=NETWORKS,
        help="shipped prior, prior file, or training configuration (.yaml, random weights); default: configs/train/*",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: torch's)")
    parser.add_argument("--seconds", type=float, default=6.0, help="length of the recording (default: 6)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of every part (default: 5)")
    options = parser.parse_args(arguments)
    if len(options.networks) > 1:
        for name in options.networks:
            flags = [f"--{key}={getattr(options, key)}" for key in ("device", "threads", "seconds", "repeats")]
            subprocess.run([sys.executable, __file__, name, *flags], check=True)
        return 0
    try:
        torch.set_num_threads(options.threads)
        device = choose_device(options.device)
        prior = load_network(options.networks[0], device)
    except NldiffError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(prior, device, options)
    return 0


def load_network(name: str, device: torch.device) -> Prior:
    """A prior, or a network of random weights from a training configuration."""
    if not name.endswith(".yaml"):
        return load_prior(name, device)
    config = load_config(TrainingConfig, Path(name), ["train_data=unused", "val_data=unused"])
    network = make_network(**config.network).to(device).eval()
    network.freeze(fast_dtype(device))
    sigma_min = config.noise_levels.get("sigma_min", 1e-5)
    denoiser = EDMDenoiser(network, config.sigma_data)
    return Prior(
        Path(name).stem, denoiser, config.sample_rate, config.sigma_data, sigma_min, {"settings": config.settings}
    )


def report(prior: Prior, device: torch.device, options: argparse.Namespace) -> None:
    """Measure all parts and print each when it is done."""
    network = prior.denoiser.network
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {options.threads} threads"
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    dtype = str(network.compute_dtype).removeprefix("torch.")
    print(
        f"\n{prior.name}: {size:.1f} M parameters, {dtype}, {options.seconds:g} s at {prior.sample_rate} Hz, {where}\n"
    )
    print("| part | time (ms) | peak memory so far (MiB) |\n|---|---:|---:|")
    for part, seconds in measurements(prior, device, options.seconds, options.repeats):
        print(f"| {part} | {1000 * seconds:.1f} | {peak_memory(device):.0f} |", flush=True)


def measurements(prior: Prior, device: torch.device, seconds: float, repeats: int) -> Iterator[tuple[str, float]]:
    """Yield (part, median time in seconds) for all parts of a restoration step."""
    network, denoiser = prior.denoiser.network, prior.denoiser
    generator = torch.Generator().manual_seed(0)
    y = prior.sigma_data * torch.randn(1, round(seconds * prior.sample_rate), generator=generator).to(device)
    y.clamp_(-prior.sigma_data, prior.sigma_data)
    sigma = torch.full((1,), 0.1, device=device)

    def timed(work: Callable[[], object]) -> float:
        times = []
        for _ in range(repeats + 1):  # the first one builds plans and kernels
            synchronise(device)
            started = time.perf_counter()
            work()
            synchronise(device)
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:])

    if isinstance(network, CQTUNet):
        coefficients = network.transform.forward(y)
        yield "constant-Q transform", timed(lambda: network.transform.forward(y))
        yield "its inverse", timed(lambda: network.transform.inverse(coefficients, y.shape[1]))

    for name in sorted(WAVESHAPERS):
        waveshaper = make_waveshaper(name, 1).to(device)
        waveshaper.reset(y, generators([0]))
        optimiser = torch.optim.Adam(waveshaper.parameters(), lr=0.02)
        shaped, compare = waveshaper.prepare(y), CompressedSTFTCost().prepare(0.9 * y)

        def iterate(
            optimiser: torch.optim.Optimizer = optimiser,
            shaped: Callable[[], Tensor] = shaped,
            compare: Callable[[Tensor], Tensor] = compare,
        ) -> None:
            optimiser.zero_grad(set_to_none=True)
            compare(shaped()).sum().backward()
            optimiser.step()

        yield f"one iteration on the curve, {name}", timed(iterate)

    with torch.no_grad():
        yield "network, forward", timed(lambda: denoiser(y, sigma))

    def forward_backward() -> None:
        leaf = y.clone().requires_grad_(True)
        torch.autograd.grad(denoiser(leaf, sigma).sum(), leaf)

    yield "network, forward and backward to the input", timed(forward_backward)

    settings = resolve_settings(prior, RestoreConfig(sampler={"steps": repeats + 2}))
    waveshaper = make_waveshaper("ccr", 1).to(device)
    waveshaper.reset(y, generators([0]))
    stamps: list[float] = []

    def stamp(step: Step) -> None:
        synchronise(device)
        stamps.append(time.perf_counter())

    sample(
        denoiser, y, waveshaper, settings.sampler.schedule().to(device), settings.sampler, generators([0]),
        fit=settings.operator_fit, cost=CompressedSTFTCost(settings.cost), level=prior.sigma_data, callback=stamp,
    )  # fmt: skip
    durations = [after - before for before, after in pairwise(stamps)]
    fits = settings.operator_fit.iterations
    yield f"one guided step with {fits} iterations on the curve, ccr", statistics.median(durations)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """Largest memory so far, MiB: of the process or, on a GPU, of its tensors."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
