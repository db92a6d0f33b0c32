"""Short-time transform and overlap-add against PyTorch's own and against each other."""

import pytest
import torch

from nldiff.transforms.stft import overlap_add, stft


@pytest.mark.parametrize(("samples", "n_fft", "hop"), [(1000, 64, 16), (1, 8, 4), (777, 32, 32), (300, 512, 128)])
def test_spectra_are_those_of_torch(samples: int, n_fft: int, hop: int) -> None:
    y = torch.randn(2, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    window = torch.hann_window(n_fft, dtype=torch.float64)
    expected = torch.stft(y, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    torch.testing.assert_close(stft(y, n_fft, hop), expected.transpose(1, 2))


def test_overlap_add_is_the_transpose_of_cutting_frames() -> None:
    generator = torch.Generator().manual_seed(2)
    y = torch.randn(3, 5 * 4 + 12, dtype=torch.float64, generator=generator)
    frames = torch.randn(3, 6, 12, dtype=torch.float64, generator=generator)
    assert overlap_add(frames, 4).shape == y.shape
    torch.testing.assert_close((y.unfold(1, 12, 4) * frames).sum(), (y * overlap_add(frames, 4)).sum())
