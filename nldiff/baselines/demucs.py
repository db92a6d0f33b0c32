"""Demucs in the time domain: strided convolutions, an LSTM at the bottleneck, transposed convolutions back.

Défossez, Usunier, Bottou and Bach, "Music source separation in the waveform domain" (2019), in the single-channel form
of Défossez, Synnaeve and Adi, "Real time speech enhancement in the waveform domain" (2020).

Imort et al. 2022 (sec. 4) reduced it "from 66M to 1M by reducing the number of blocks from 12 to 6". The original has 6
blocks in the encoder and 6 in the decoder, so 6 blocks mean `depth=3` here: `hidden=32, depth=3` has 0.94 M parameters.
If 6 blocks in either half are meant, `hidden=24, depth=6, max_hidden=96` has 1.09 M. It takes a third of the work per
sample and gets further where the time for training is short.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# Initial weights move half of the way (on a logarithmic scale) from PyTorch's standard deviation to this one.
_WEIGHT_STD = 0.1
# Zero crossings on either side of the resampling filter.
_ZEROS = 56


class Demucs(nn.Module):
    """U-Net on the waveform with additive skip connections.

    A block of the encoder is a strided convolution, ReLU, a convolution of length 1 that doubles the channels, and a
    gate (GLU). A block of the decoder is a convolution of length 1, a gate, a transposed convolution and, except in the
    last block, ReLU. Channels grow by `growth` from block to block, up to `max_hidden`.

    A causal network sees only `lookahead` samples of the future: output n does not depend on inputs after
    n + `lookahead`.

    Published settings: the speech denoiser is `hidden=48, depth=5, resample=4` with 18.87 M parameters (`causal=True`)
    or 34.22 M (`causal=False`). `hidden=32, depth=4, max_hidden=192` with `resample=1` has 2.35 M parameters at
    44.1 kHz: it has fewer channels (32 instead of 48 in the first block, 192 instead of 768 at the bottleneck), one
    block less in encoder and decoder and no internal resampling. A latent frame is then 256 samples, 5.8 ms.

    Args:
        hidden: channels of the first block.
        depth: blocks of the encoder, and of the decoder.
        kernel, stride: length and step of the convolutions, samples; `kernel` at least `stride`.
        growth: factor of the channels from block to block.
        max_hidden: upper limit of the channels.
        lstm_layers: layers of the LSTM.
        causal: let the LSTM run forward in time only; otherwise it runs in both directions, and a linear layer follows.
        resample: 1, 2 or 4; the network works at this multiple of the sampling rate.
        residual: add the input to the output. A distorted signal is near the target: an input SDR of 5 to 20 dB is
            common, and samples that are not clipped are equal. The network then learns the correction only and spends
            no training time on passing its input through.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        hidden: int = 48,
        depth: int = 5,
        kernel: int = 8,
        stride: int = 4,
        growth: float = 2.0,
        max_hidden: int = 10_000,
        lstm_layers: int = 2,
        causal: bool = False,
        resample: int = 4,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if hidden < 1 or depth < 1 or not 1 <= stride <= kernel:
            raise ValueError(
                f"hidden {hidden}, depth {depth}, kernel {kernel}, stride {stride}: at least 1 each, "
                "stride at most kernel expected"
            )
        if resample not in (1, 2, 4):
            raise ValueError(f"resample {resample}: 1, 2 or 4 expected")
        self.depth, self.kernel, self.stride = depth, kernel, stride
        self.doublings, self.residual = resample.bit_length() - 1, residual
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        inputs, outputs = 1, hidden
        for block in range(depth):
            self.encoder.append(
                nn.Sequential(
                    nn.Conv1d(inputs, outputs, kernel, stride),
                    nn.ReLU(),
                    nn.Conv1d(outputs, 2 * outputs, 1),
                    nn.GLU(dim=1),
                )
            )
            back = nn.Sequential(
                nn.Conv1d(outputs, 2 * outputs, 1),
                nn.GLU(dim=1),
                nn.ConvTranspose1d(outputs, inputs, kernel, stride),
            )
            if block:
                back.append(nn.ReLU())
            self.decoder.insert(0, back)
            inputs, outputs = outputs, min(int(growth * outputs), max_hidden)
        self.lstm = nn.LSTM(inputs, inputs, lstm_layers, bidirectional=not causal, batch_first=True)
        self.linear = nn.Identity() if causal else nn.Linear(2 * inputs, inputs)
        with torch.no_grad():
            for layer in self.modules():
                if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                    scale = (_WEIGHT_STD / layer.weight.std()).sqrt()
                    for parameter in layer.parameters():
                        parameter.mul_(scale)

    @property
    def lookahead(self) -> int:
        """Samples of the future that a causal network sees: one latent frame and the resampling filters."""
        frame = self._padded_length(1)
        filters = sum(2 * _ZEROS / 2**k for k in range(self.doublings))  # up and down, at 1 and 2 times the rate
        return math.ceil(frame / 2**self.doublings + filters)

    def forward(self, y: Tensor) -> Tensor:
        """`y` [batch, time] float32 at unit RMS -> [batch, time] float32; any length."""
        x = y
        for _ in range(self.doublings):
            x = double_rate(x)
        samples = x.shape[1]
        x = F.pad(x, (0, self._padded_length(samples) - samples))[:, None]
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
        x = rearrange(self.linear(self.lstm(rearrange(x, "b c t -> b t c"))[0]), "b t c -> b c t")
        for block in self.decoder:
            x = block(x + skips.pop())
        x = x[:, 0, :samples]
        for _ in range(self.doublings):
            x = halve_rate(x)
        return y + x if self.residual else x

    def _padded_length(self, samples: int) -> int:
        """Least length, at least `samples`, that whole frames cover in every block."""
        for _ in range(self.depth):
            samples = max(math.ceil((samples - self.kernel) / self.stride) + 1, 1)
        for _ in range(self.depth):
            samples = (samples - 1) * self.stride + self.kernel
        return samples


def double_rate(x: Tensor) -> Tensor:
    """`x` [batch, time] -> [batch, 2 time]: a windowed sinc gives the samples half-way between those of `x`."""
    between = F.conv1d(x[:, None], _half_way_filter(x), padding=_ZEROS)[:, 0, 1:]
    return rearrange(torch.stack([x, between], dim=-1), "b t n -> b (t n)")


def halve_rate(x: Tensor) -> Tensor:
    """`x` [batch, 2 time] -> [batch, time]: a windowed sinc removes the upper half of the band."""
    even, odd = rearrange(x, "b (t n) -> b t n", n=2).unbind(-1)
    return (even + F.conv1d(odd[:, None], _half_way_filter(x), padding=_ZEROS)[:, 0, :-1]) / 2


def _half_way_filter(like: Tensor) -> Tensor:
    """Sinc at half-integer times with a Hann window, [1, 1, 2 _ZEROS]; symmetric."""
    t = torch.arange(-_ZEROS + 0.5, _ZEROS, dtype=like.dtype, device=like.device)
    return (torch.sinc(t) * torch.cos(math.pi * t / (2 * _ZEROS)).square())[None, None]
