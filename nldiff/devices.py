"""Where tensors live, and the type of numbers that convolutions are fast in there."""

import torch

from nldiff.errors import NldiffError


def choose_device(name: str) -> torch.device:
    """Torch device for "auto" (CUDA, else MPS, else CPU) or a device name.

    Raises:
        NldiffError: the name is unknown or the machine lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise NldiffError(f"device '{name}' is not available: {str(error).splitlines()[0]}") from error
    return device


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where convolutions are faster in it (GPU, CPU with AVX-512 BF16 or AMX), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
