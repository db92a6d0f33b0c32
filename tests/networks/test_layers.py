from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_networks import noise
from torch import Tensor

from nldiff.networks.layers import (
    Conv,
    DilatedLayer,
    MagnitudePreservingLayer,
    NoiseEmbedding,
    channels_last,
    downsample_time,
    normalised_activation,
    upsample_time,
)


def test_downsampling_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])[None, None, None]
    # (3·1 + 3·2 + 3) / 8 and (2 + 3·3 + 3·4) / 8, zeros outside
    torch.testing.assert_close(downsample_time(x)[0, 0, 0], torch.tensor([1.5, 2.875]))


def test_upsampling_by_hand() -> None:
    x = torch.tensor([1.0, 2.0])[None, None, None]
    # 3/4 and 1/4 of the nearest two, zeros outside
    torch.testing.assert_close(upsample_time(x)[0, 0, 0], torch.tensor([0.75, 1.25, 1.75, 1.5]))


@settings(max_examples=20)
@given(frames=st.integers(1, 40), channels=st.integers(1, 5), seed=st.integers(0, 100))
def test_upsampling_is_twice_the_adjoint_of_downsampling(frames: int, channels: int, seed: int) -> None:
    x, y = noise(2, channels, 3, 2 * frames, seed=seed), noise(2, channels, 3, frames, seed=seed + 1)
    down, up = (downsample_time(x) * y).sum(), (x * upsample_time(y)).sum()
    torch.testing.assert_close(2 * down, up, rtol=1e-4, atol=1e-4)


def test_resampling_keeps_memory_order() -> None:
    x = noise(1, 4, 6, 8).contiguous(memory_format=torch.channels_last)
    assert downsample_time(x).is_contiguous(memory_format=torch.channels_last)
    assert upsample_time(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("resample", [downsample_time, upsample_time])
def test_gradients_of_resampling(resample: Callable[[Tensor], Tensor]) -> None:
    x = channels_last(noise(2, 3, 2, 6).double()).requires_grad_()
    assert torch.autograd.gradcheck(resample, x)
    assert torch.autograd.gradgradcheck(resample, x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda z: z, "gelu": F.gelu, "silu": F.silu}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gains", [1, 2])
def test_normalised_activation_with_offset_is_group_norm(activation: str, gains: int) -> None:
    x = channels_last(noise(2, 6, 4, 5).double() * 3 + 2).requires_grad_()
    gain, offset = (noise(gains, 6, 1, 1, seed=s).double().requires_grad_() for s in (1, 2))
    y = normalised_activation(x, gain, offset, 3, 1e-3, activation)
    expected = ACTIVATIONS[activation](F.group_norm(x, 3, eps=1e-3) * gain + offset)
    torch.testing.assert_close(y, expected)
    weights = noise(2, 6, 4, 5, seed=3).double()
    ours, theirs = (torch.autograd.grad((z * weights).sum(), [x, gain, offset]) for z in (y, expected))
    torch.testing.assert_close(ours, theirs)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gains", [1, 2])
def test_normalised_activation_without_offset(activation: str, gains: int) -> None:
    x = channels_last(noise(2, 6, 4, 5).double() * 3 + 2).requires_grad_()
    gain = noise(gains, 6, 1, 1, seed=1).double().requires_grad_()
    mean_square = x.detach().square().unflatten(1, (2, 3)).mean((2, 3, 4)).repeat_interleave(3, dim=1)
    y = normalised_activation(x, gain, None, 2, 0.1, activation)
    torch.testing.assert_close(y, ACTIVATIONS[activation](x / (mean_square + 0.1).sqrt()[:, :, None, None] * gain))
    assert torch.autograd.gradcheck(lambda x, gain: normalised_activation(x, gain, None, 2, 0.1, activation), (x, gain))


def test_normalised_activation_in_bfloat16() -> None:
    x = channels_last(noise(1, 8, 64, 501) + 1).bfloat16()
    one, zero = torch.ones(1, 8, 1, 1), torch.zeros(1, 8, 1, 1)
    y = normalised_activation(x, one, zero, 2, 1e-6, "none")
    assert y.dtype == torch.bfloat16
    # The statistics are more exact than the type; gain and offset, both about 1, are rounded by up to 1/512.
    torch.testing.assert_close(y.float().mean(), torch.tensor(0.0), atol=0.004, rtol=0)
    torch.testing.assert_close(y.float().std(), torch.tensor(1.0), atol=0.004, rtol=0)


@pytest.mark.parametrize(("kernel", "dilation"), [((1, 1), 1), ((5, 3), 2)])
def test_gradient_through_a_frozen_convolution(kernel: tuple[int, int], dilation: int) -> None:
    conv, x = Conv(3, 4, kernel, dilation), channels_last(noise(2, 3, 9, 7)).requires_grad_()
    weights = noise(2, 4, 9, 7, seed=1)
    (expected,) = torch.autograd.grad((conv(x) * weights).sum(), x)
    conv.requires_grad_(False)
    conv.freeze()
    (actual,) = torch.autograd.grad((conv(x) * weights).sum(), x)
    torch.testing.assert_close(actual, expected)
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_a_frozen_layer_keeps_its_input_alone() -> None:
    layer, embedding, x = DilatedLayer(8, 16, 2), noise(1, 16, 1, 1), channels_last(noise(1, 8, 40, 50))
    layer.requires_grad_(False)
    layer.conv.freeze()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        layer(x.requires_grad_(), embedding)
    assert {t.data_ptr() for t in kept if t.numel() == x.numel()} == {x.data_ptr()}


def test_dilation_is_along_frequency_only() -> None:
    conv = Conv(1, 1, (5, 3), dilation=4)
    x = torch.zeros(1, 1, 33, 9)
    x[..., 16, 4] = 1
    rows, frames = torch.nonzero(conv(x)[0, 0], as_tuple=True)
    assert set(rows.tolist()) == {8, 12, 16, 20, 24}
    assert set(frames.tolist()) == {3, 4, 5}


@pytest.mark.parametrize("factor", [0.01, 1.0, 100.0])
def test_normalised_convolution_has_unit_gain(factor: float) -> None:
    torch.manual_seed(0)
    conv = Conv(32, 16, (3, 3), normalise=True)
    with torch.no_grad():
        conv.weight.mul_(factor)
    variance = conv(noise(1, 32, 100, 100))[..., 1:-1, 1:-1].var(dim=(0, 2, 3))
    torch.testing.assert_close(variance, torch.ones(16), rtol=0, atol=0.1)


@torch.no_grad()
def test_magnitude_preserving_layer_keeps_unit_variance() -> None:
    torch.manual_seed(0)
    layers = [MagnitudePreservingLayer(64, 16) for _ in range(4)]
    embedding = NoiseEmbedding(16, normalise=True)(torch.tensor([0.2]))
    h = noise(1, 64, 48, 48)
    for layer in layers:
        h = layer(h, embedding)
        assert float(h.square().mean()) == pytest.approx(1.0, abs=0.1)


def test_dilated_layer_by_hand() -> None:
    torch.manual_seed(0)
    layer, embedding = DilatedLayer(16, 4, dilation=2), noise(2, 4, 1, 1)
    x = noise(2, 16, 10, 12) * 3
    with torch.no_grad():
        layer.norm_scale.copy_(torch.rand(16, 1, 1) + 0.5)
    scale, gate = (layer.modulation.weight[:, :, 0, 0] @ embedding[:, :, 0, 0].T).T.reshape(2, 2, 16, 1, 1).unbind(1)
    groups = x.reshape(2, 8, 2, 10, 12)
    normalised = (groups / groups.square().mean(dim=(2, 3, 4), keepdim=True).sqrt()).reshape(x.shape)
    hidden = torch.nn.functional.gelu(normalised * layer.norm_scale * (1 + scale))
    hidden = torch.nn.functional.conv2d(hidden, layer.conv.weight, padding=(4, 1), dilation=(2, 1))
    torch.testing.assert_close(layer(x, embedding), (x + hidden * (1 + gate)) / 2**0.5)


@torch.no_grad()
def test_noise_embedding_tells_levels_apart() -> None:
    torch.manual_seed(0)
    levels = torch.tensor([1e-5, 1e-3, 0.01, 0.011, 0.1, 1.0, 10.0])
    features = NoiseEmbedding()(levels.log() / 4).flatten(1)
    distances = torch.cdist(features, features) + torch.eye(len(levels)) * 1e9
    # Ten per cent more noise is 0.024 in c_noise; at frequencies around 4 that turns the phases by 0.6, not by nothing.
    assert float(distances.min()) > 0.05 * float(distances[0, 1])
