"""Speech restoration by other packages, through their own code and weights: VoiceFixer and Resemble Enhance.

Neither package is part of nldiff. Both would download their weights when they are first used; here the weights have to
be there already, and an error says where.

Liu et al., "VoiceFixer: A Unified Framework for High-Fidelity Speech Restoration" (2022), PyPI `voicefixer`;
Resemble AI, PyPI `resemble-enhance` (2023).
"""

import contextlib
import importlib.util
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nldiff import sound
from nldiff.errors import NldiffError
from nldiff.metrics.packages import import_package

RATE = 44100
"""Hz at which both packages work."""

Enhancer = Callable[[np.ndarray], np.ndarray]
"""From speech [channels, time] at `RATE` to restored speech of the same shape; channels are restored one by one."""

# Below the home folder; the names and the addresses are those of the package.
_VOICEFIXER_WEIGHTS = {
    ".cache/voicefixer/analysis_module/checkpoints/vf.ckpt": "https://zenodo.org/record/5600188/files/vf.ckpt",
    ".cache/voicefixer/synthesis_module/44100/model.ckpt-1490000_trimed.pt": (
        "https://zenodo.org/record/5469951/files/model.ckpt-1490000_trimed.pt"
    ),
}
# No extra: the package pins torch 2.1.1 and NumPy 1.26, which nldiff cannot use, so it is installed without what it
# asks for; it runs with torch 2.13 and NumPy 2.4. torchaudio must be of the same build as torch (PyPI's is for CUDA).
_RESEMBLE_INSTALL = (
    "pip install --no-deps resemble-enhance==0.0.1 && pip install deepspeed torchaudio librosa pandas rich tabulate"
)
_RESEMBLE_REPOSITORY = "https://huggingface.co/ResembleAI/resemble-enhance"
_RESEMBLE_WEIGHTS = "ds/G/default/mp_rank_00_model_states.pt"
# What the package's command line does by default.
_RESEMBLE = {"nfe": 64, "solver": "midpoint", "lambd": 1.0, "tau": 0.5}
# A vocoder gives whole frames: the length may differ by this many samples.
_FRAME = 2048


def voicefixer(device: torch.device) -> Enhancer:
    """VoiceFixer in its mode 0, "original model"; on the CPU or a CUDA device.

    Raises:
        NldiffError: the package or its weights are missing; by what is returned, it fails.
    """
    for path, address in _VOICEFIXER_WEIGHTS.items():
        # Importing the package without them would download them.
        if importlib.util.find_spec("voicefixer") and not (Path.home() / path).is_file():
            raise NldiffError(f"voicefixer needs its weights: download {address} to {Path.home() / path}")
    package = import_package("voicefixer", "voicefixer")
    model = _voicefixer_model(package)
    return _each_channel(lambda speech: model.restore_inmem(speech, cuda=device.type == "cuda", mode=0))


def resemble_enhance(device: torch.device, seed: int) -> Enhancer:
    """Resemble Enhance: flow matching, with random numbers from `seed` for every piece of sound.

    Raises:
        NldiffError: the package or its weights are missing; by what is returned, it fails.
    """
    found = importlib.util.find_spec("resemble_enhance")
    if found is None or not found.submodule_search_locations:
        raise NldiffError(f"resemble-enhance is not installed: {_RESEMBLE_INSTALL}")
    repository = Path(found.submodule_search_locations[0]) / "model_repo"
    weights = repository / "enhancer_stage2"
    if not (weights / _RESEMBLE_WEIGHTS).is_file():
        raise NldiffError(
            f"resemble-enhance needs its weights: git lfs install && git clone {_RESEMBLE_REPOSITORY} {repository}"
        )
    try:
        package = importlib.import_module("resemble_enhance.enhancer.inference")
    except (ImportError, OSError) as error:  # OSError: a torchaudio of another build than torch
        raise NldiffError(f"resemble_enhance cannot be imported ({error}): {_RESEMBLE_INSTALL}") from error

    def enhance(speech: np.ndarray) -> np.ndarray:
        torch.manual_seed(seed)  # the package draws from the global generator
        # A folder of weights that is named is not updated over the network.
        restored, rate = package.enhance(torch.from_numpy(speech), RATE, str(device), run_dir=weights, **_RESEMBLE)
        if rate != RATE:
            raise NldiffError(f"resemble-enhance returned {rate} Hz, not {RATE}")
        return restored.numpy()

    return _each_channel(enhance)


@cache
def _voicefixer_model(package: Any) -> Any:
    """Loading takes longer than restoring a few seconds."""
    return _run(package.VoiceFixer)


def _each_channel(enhance: Callable[[np.ndarray], np.ndarray]) -> Enhancer:
    def process(chunk: np.ndarray) -> np.ndarray:
        return np.stack([_enhanced(enhance, channel) for channel in chunk])

    return process


def _enhanced(enhance: Callable[[np.ndarray], np.ndarray], speech: np.ndarray) -> np.ndarray:
    """Restore `speech` [time], which may be silent."""
    if np.abs(speech).max() < sound.SILENCE_PEAK:
        return np.zeros_like(speech)
    restored = np.asarray(_run(enhance, np.ascontiguousarray(speech)), dtype=np.float32).reshape(-1)
    missing = len(speech) - len(restored)
    if abs(missing) > _FRAME:
        raise NldiffError(f"{len(restored)} samples restored of {len(speech)}")
    return np.pad(restored[: len(speech)], (0, max(missing, 0)))


def _run(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call into another package, without what it prints.

    Raises:
        NldiffError: whatever goes wrong there.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return function(*arguments)
    except NldiffError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise NldiffError(f"{type(error).__name__} in another package: {reason}") from error
