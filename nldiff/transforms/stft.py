"""Short-time Fourier transform with contiguous spectra, and overlap-add: parts of iterative methods."""

import torch
from torch import Tensor


def stft(y: Tensor, n_fft: int, hop: int) -> Tensor:
    """Centred Hann STFT.

    Args:
        y: audio [batch, time]; frames are centred on multiples of `hop`, with zeros beyond both ends.
        n_fft: length of window and transform, samples, even.
        hop: step between frames, samples.

    Returns:
        Complex [batch, frames, bins], 1 + floor(time / hop) frames of n_fft / 2 + 1 bins.
    """
    window = torch.hann_window(n_fft, dtype=y.dtype, device=y.device)
    frames = torch.nn.functional.pad(y, (n_fft // 2, n_fft // 2)).unfold(1, n_fft, hop)
    return torch.fft.rfft(frames * window)


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """Add up overlapping frames.

    Args:
        frames: [batch, count, length].
        hop: step between frames, samples, a divisor of `length`.

    Returns:
        [batch, (count - 1) * hop + length].
    """
    items, count, length = frames.shape
    overlap = length // hop
    blocks = frames.new_zeros(items, count + overlap - 1, hop)
    for j, part in enumerate(frames.view(items, count, overlap, hop).unbind(2)):
        blocks[:, j : j + count] += part
    return blocks.flatten(1)
