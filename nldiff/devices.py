"""Devices for tensors, and the type of numbers in which their convolutions are fast."""

import torch

from nldiff.errors import NldiffError


def choose_device(name: str) -> torch.device:
    """Torch device for a device name or "auto": CUDA, otherwise the CPU. MPS, which was not tried, has to be named.

    Raises:
        NldiffError: the name is unknown or the machine lacks the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise NldiffError(f"device '{name[:50]}': auto, cpu, cuda, cuda:N or mps expected")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise NldiffError(f"device '{name}' is not available: {str(error).splitlines()[0]}") from error
    return device


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on devices with fast bfloat16 convolutions (GPU, CPU with AVX-512 BF16 or AMX), otherwise float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():
        return torch.bfloat16
    return torch.float32
