"""CRAFx: an adaptive filter bank, an LSTM on its envelopes, and a trainable nonlinearity before the synthesis.

Martínez-Ramírez, Benetos and Reiss, "A general-purpose deep learning approach to model time-varying audio effects"
(2019) and "Deep learning for black-box modeling of audio effects" (2020); used for the removal of distortion by Imort
et al. 2022 (sec. 4).

It differs from the published network in four things. The filters run over the whole signal; where frames overlap, the
latent signals and gates are cross-faded before they are applied, not the audio afterwards. This saves most of the work,
and where the network is linear, the result differs only at the edges of frames. The published front end is trained
beforehand to reconstruct its input; here it starts as a filter bank that does so exactly. The last LSTM keeps its tanh,
which fits the range of the activation after it. There is no dropout.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

_STEP = 64  # samples from one value of the envelopes to the next


class AdaptiveActivation(nn.Module):
    """Smooth adaptive activation functions (SAAF; Hou et al. 2017), one per channel: piecewise quadratic, trainable.

    The function is quadratic in each of the equal `intervals` of [-1, 1] and a straight line outside; value and slope
    are continuous. `value` and `slope` [channel] are those at -1, and the slope grows by `slope_change` [channel,
    interval] along every interval. The function starts as `offset` + x.
    """

    def __init__(self, channels: int, intervals: int = 25, offset: float = 0.0) -> None:
        super().__init__()
        self.intervals = intervals
        self.value = nn.Parameter(torch.full((channels,), offset - 1.0))
        self.slope = nn.Parameter(torch.ones(channels))
        self.slope_change = nn.Parameter(torch.zeros(channels, intervals))

    def forward(self, x: Tensor) -> Tensor:
        """`x` [batch, channels, time] -> same shape."""
        channels, density = len(self.value), self.intervals / 2
        # Piece 0 is left of the intervals, piece `intervals` + 1 right of them.
        first_row = torch.arange(channels, device=x.device, dtype=torch.int32)[:, None] * (self.intervals + 2)
        with torch.no_grad():
            piece = (x * density).add_(density + 1).clamp_(0, self.intervals + 1).int()
        constant, linear, quadratic = F.embedding(piece.add_(first_row), self._pieces()).unbind(-1)
        return constant + x * (linear + x * quadratic)

    def _pieces(self) -> Tensor:
        """Coefficients of 1, x and x^2, [channels * (intervals + 2), 3]."""
        width = 2 / self.intervals
        start = torch.arange(self.intervals + 1, device=self.value.device, dtype=self.value.dtype) * width - 1
        # Slope and value at all break points.
        slope = self.slope[:, None] + F.pad(self.slope_change.cumsum(1), (1, 0))
        rise = (slope[:, 1:] + slope[:, :-1]) * (width / 2)
        value = self.value[:, None] + F.pad(rise.cumsum(1), (1, 0))
        quadratic = F.pad(self.slope_change / (2 * width), (0, 1))
        # Powers of x in value + slope (x - start) + quadratic (x - start)^2.
        constant = value - slope * start + quadratic * start**2
        pieces = torch.stack([constant, slope - 2 * quadratic * start, quadratic], dim=-1)
        left = torch.stack([self.value + self.slope, self.slope, torch.zeros_like(self.slope)], dim=-1)
        return rearrange(torch.cat([left[:, None], pieces], dim=1), "c piece power -> (c piece) power")


class CRAFx(nn.Module):
    """Convolutional recurrent network for audio effects, on overlapping frames that know their neighbours.

    Front end: a convolution of 2 `filters` samples splits the signal into `filters` bands. Their magnitudes, smoothed
    by another filter each (4 `filters` samples, softplus), are pooled to envelopes of one value in 64 samples.
    Latent space: the envelopes of 2 `context` + 1 frames go through three bidirectional LSTM layers (64, 32 and 16
    units for 32 filters) and a trained activation.
    Back end: the result multiplies the bands. Dense layers with another trained activation and a gate per frame and
    band (squeeze-and-excitation) add the nonlinearity. The filters of the front end, reversed in time, synthesise the
    audio. The gain of the bands is near 1 before training.

    Args:
        filters: number of bands, even; 32 in the paper.
        frame: length of a frame, samples, a multiple of 128; frames begin every `frame` / 2 samples.
        context: number of neighbouring frames that a frame sees before and after itself.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, filters: int = 32, frame: int = 4096, context: int = 4) -> None:
        super().__init__()
        if filters < 2 or filters % 2 or frame < 2 * _STEP or frame % (2 * _STEP) or context < 0:
            raise ValueError(
                f"filters {filters}, frame {frame}, context {context}: "
                f"an even number, a multiple of {2 * _STEP} and at least 0 expected"
            )
        self.hop, self.context = frame // 2, context
        # Brings the bands to unit RMS: quieter ones would only reach the straight part of what shapes them.
        self.input_gain = math.sqrt(filters)
        self.filters = nn.Parameter(cosine_filters(filters)[:, None])
        self.smooth = nn.Conv1d(filters, filters, 4 * filters, groups=filters)
        widths = [filters * (2 * context + 1), 4 * filters, 2 * filters, filters]
        self.lstms = nn.ModuleList(
            nn.LSTM(inputs, outputs // 2, bidirectional=True, batch_first=True) for inputs, outputs in pairwise(widths)
        )
        self.gain = AdaptiveActivation(filters, offset=1.0)
        self.shape = nn.Sequential(
            _dense(filters, filters),
            nn.Tanh(),
            _dense(filters, filters // 2),
            nn.Tanh(),
            _dense(filters // 2, filters // 2),
            nn.Tanh(),
            _dense(filters // 2, filters),
            AdaptiveActivation(filters),
        )
        self.excite = nn.Sequential(
            nn.Linear(filters, 16 * filters), nn.ReLU(), nn.Linear(16 * filters, filters), nn.Sigmoid()
        )

    def forward(self, y: Tensor) -> Tensor:
        """`y` [batch, time] float32 at unit RMS -> [batch, time] float32; any length."""
        samples, margin = y.shape[1], self.filters.shape[0]  # a click spreads that far in the bands
        padding = (margin, margin + -(samples + 2 * margin) % self.hop)
        bands = self.analyse(F.pad(y * self.input_gain, padding))
        x = _scale(bands, self.cross_fade(self.recur(self.envelopes(bands))))
        shaped = self.shape(x)
        x = x + _scale(shaped, self.cross_fade(self.gates(shaped)))
        return self.synthesise(x)[:, margin : margin + samples] / self.input_gain

    def analyse(self, y: Tensor) -> Tensor:
        """`y` [batch, time] -> bands [batch, filters, time]."""
        taps = self.filters.shape[2]
        return F.conv1d(F.pad(y, (taps // 2 - 1, taps // 2))[:, None], self.filters)

    def synthesise(self, bands: Tensor) -> Tensor:
        """`bands` [batch, filters, time] -> [batch, time]; the adjoint of `analyse`."""
        taps = self.filters.shape[2]
        return F.conv_transpose1d(bands, self.filters)[:, 0, taps // 2 - 1 : -(taps // 2)]

    def envelopes(self, bands: Tensor) -> Tensor:
        """`bands` [batch, filters, time] -> [batch, filters, time / 64]."""
        taps = self.smooth.kernel_size[0]
        return F.max_pool1d(F.softplus(self.smooth(F.pad(bands.abs(), (taps // 2 - 1, taps // 2)))), _STEP)

    def recur(self, envelopes: Tensor) -> Tensor:
        """`envelopes` [batch, filters, hops * steps] -> gains [batch, hops + 1, filters, frame / 64].

        Frames begin one hop before the signal, so that two of them cover every sample.
        """
        steps, bias = self.hop // _STEP, self.smooth.bias
        assert bias is not None
        # Envelopes beyond the ends of the signal.
        silence = F.softplus(bias)[None, :, None].expand(len(envelopes), -1, (self.context + 1) * steps)
        frames = torch.cat([silence, envelopes, silence], dim=2).unfold(2, 2 * steps, steps)
        neighbours = frames.unfold(2, 2 * self.context + 1, 1)
        x = rearrange(neighbours, "b c frame step neighbour -> (b frame) step (neighbour c)")
        for lstm in self.lstms:
            x = lstm(x)[0]
        gains = self.gain(rearrange(x, "n step c -> n c step"))
        return rearrange(gains, "(b frame) c step -> b frame c step", b=len(envelopes))

    def gates(self, shaped: Tensor) -> Tensor:
        """`shaped` [batch, filters, hops * hop] -> gates [batch, hops + 1, filters, 1] from the mean magnitudes."""
        means = F.pad(reduce(shaped.abs(), "b c (m t) -> b c m", "mean", t=self.hop), (1, 1), mode="replicate")
        return self.excite(rearrange(means[..., 1:] + means[..., :-1], "b c frame -> b frame c") / 2)[..., None]

    def cross_fade(self, frames: Tensor) -> Tensor:
        """Overlap and add `frames` with Hann windows.

        `frames` [batch, hops + 1, filters, frame / 64 or 1] -> [batch, filters, hops * hop / 64].
        """
        steps = self.hop // _STEP
        frames = frames.expand(-1, -1, -1, 2 * steps)
        times = torch.arange(steps, device=frames.device, dtype=frames.dtype) + 0.5
        rising = torch.sin(math.pi / 2 * times / steps).square()
        faded = frames[:, 1:, :, :steps] * rising + frames[:, :-1, :, steps:] * (1 - rising)
        return rearrange(faded, "b frame c step -> b c (frame step)")


def _dense(inputs: int, outputs: int) -> nn.Conv1d:
    """Dense layer for every sample; with the tanh after it, it keeps the RMS (Xavier)."""
    layer = nn.Conv1d(inputs, outputs, 1)
    nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("tanh"))
    return layer


def _scale(signals: Tensor, factors: Tensor) -> Tensor:
    """`signals` [batch, filters, time] times `factors` [batch, filters, time / 64]."""
    scaled = rearrange(signals, "b c (step t) -> b c step t", t=_STEP) * factors[..., None]
    return rearrange(scaled, "b c step t -> b c (step t)")


def cosine_filters(bands: int) -> Tensor:
    """Cosine-modulated filters [bands, 2 bands] with a sine window: those of the MDCT.

    Their power responses add up to 1: a signal filtered by each of them and by its reversal in time adds up to itself.
    """
    n, k = torch.arange(2 * bands)[None], torch.arange(bands)[:, None]
    phase = math.pi / bands * (n + 0.5 + bands / 2) * (k + 0.5)
    return torch.sin(math.pi * (n + 0.5) / (2 * bands)) * torch.cos(phase) * math.sqrt(2) / bands
