from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.networks import NETWORKS, make_network
from nldiff.networks.layers import (
    Conv,
    DilatedLayer,
    MagnitudePreservingLayer,
    NoiseEmbedding,
    ScoreNetwork,
    channels_last,
    downsample_time,
    normalised_activation,
    upsample_time,
)
from nldiff.training.prior import TrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "train"

# One entry or more for every name in the table; `test_every_network_is_tested` keeps it complete.
TINY: dict[str, dict[str, Any]] = {
    "cqtunet-dilated": {
        "name": "cqtunet",
        "channels": [8, 8, 16],
        "layers": [1, 2, 1],
        "bottleneck": 1,
        "bins_per_octave": 8,
        "embedding": 16,
    },
    "cqtunet-magnitude": {
        "name": "cqtunet",
        "channels": [8, 8, 12],
        "layers": [1, 1, 1],
        "bottleneck": 1,
        "bins_per_octave": 8,
        "layer": "magnitude_preserving",
        "patch": [4, 2],
        "window": "hann",
        "position_embedding": True,
        "embedding": 16,
    },
    "ncsnpp-biggan": {
        "name": "ncsnpp",
        "channels": [8, 16, 16],
        "n_fft": 62,
        "hop": 16,
        "embedding": 16,
    },
    "ncsnpp-magnitude": {
        "name": "ncsnpp",
        "channels": [8, 12],
        "blocks": 2,
        "layer": "magnitude_preserving",
        "n_fft": 62,
        "hop": 16,
        "patch": 2,
        "progressive": False,
        "attention": False,
        "position_embedding": True,
        "embedding": 16,
    },
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build(arguments: dict[str, Any], **changes: Any) -> ScoreNetwork:
    """The same weights every time, moved away from their special initial values (zeros and near-zero gains)."""
    torch.manual_seed(0)
    network = make_network(**{**arguments, **changes})
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            if name == "output_gain":
                parameter.fill_(1.0)
    return network


@pytest.fixture(params=TINY)
def arguments(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    yield TINY[request.param]


def test_every_network_is_tested() -> None:
    assert {arguments["name"] for arguments in TINY.values()} == set(NETWORKS)


@pytest.mark.parametrize("tiny", TINY)
@settings(max_examples=10)
@given(samples=st.integers(1, 500))
def test_any_length_in_is_the_length_out(tiny: str, samples: int) -> None:
    y = build(TINY[tiny])(noise(2, samples), torch.tensor([0.1, -0.5]))
    assert y.shape == (2, samples)
    assert y.dtype == torch.float32
    assert bool(y.isfinite().all())


def test_padding_is_silence(arguments: dict[str, Any]) -> None:
    network, c_noise = build(arguments), torch.tensor([-0.3])
    x = noise(1, 150)
    longer = torch.nn.functional.pad(x, (0, 40))  # both end in the same multiple of the granules, 192
    torch.testing.assert_close(network(x, c_noise), network(longer, c_noise)[:, :150])


def test_items_are_independent(arguments: dict[str, Any]) -> None:
    network = build(arguments)
    x, c_noise = noise(3, 300) * torch.tensor([[1.0], [0.01], [5.0]]), torch.tensor([-1.0, 0.2, 0.5])
    together = network(x, c_noise)
    for i in range(3):
        torch.testing.assert_close(network(x[i : i + 1], c_noise[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-5)
    x[0] = noise(300, seed=9)
    assert torch.equal(network(x, c_noise)[1:], together[1:])
    assert not torch.allclose(network(x, c_noise)[0], together[0], rtol=0.1)


def test_noise_level_matters(arguments: dict[str, Any]) -> None:
    network, x = build(arguments), noise(1, 200)
    low, high = network(x, torch.tensor([-2.0])), network(x, torch.tensor([0.5]))
    assert torch.linalg.vector_norm(low - high) > 0.001 * torch.linalg.vector_norm(low)


def test_every_input_and_parameter_has_a_gradient(arguments: dict[str, Any]) -> None:
    network, x = build(arguments), noise(2, 200).requires_grad_()
    network(x, torch.tensor([-1.0, 0.3])).square().sum().backward()
    assert x.grad is not None and int((x.grad == 0).sum()) == 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
        assert bool(parameter.grad.isfinite().all()), name


def test_gradient_is_that_of_the_output(arguments: dict[str, Any]) -> None:
    network, c_noise = build(arguments), torch.tensor([-0.5])
    x, direction = noise(1, 96), noise(1, 96, seed=1)
    probe = noise(1, 96, seed=2)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((network(x, c_noise) * probe).sum(), x)
    with torch.no_grad():
        h = 3e-3  # the network is float32: a step that balances rounding and curvature
        difference = ((network(x + h * direction, c_noise) - network(x - h * direction, c_noise)) * probe).sum()
    assert float((gradient * direction).sum()) == pytest.approx(float(difference) / (2 * h), rel=1e-2)


def test_same_input_same_output(arguments: dict[str, Any]) -> None:
    x, c_noise = noise(2, 300), torch.tensor([-1.0, 0.3])
    assert torch.equal(build(arguments)(x, c_noise), build(arguments)(x, c_noise))


def test_frozen_network_is_the_same(arguments: dict[str, Any]) -> None:
    network, x, c_noise = build(arguments), noise(2, 300), torch.tensor([-1.0, 0.3])
    expected = network(x, c_noise)
    network.gradient_checkpointing = True
    network.freeze(torch.float32)
    assert not network.gradient_checkpointing  # it needs no memory that would be worth the time
    assert torch.equal(network(x, c_noise), expected)
    assert torch.equal(network(x, c_noise), expected)  # from the kernels that the first call prepared
    assert not any(p.requires_grad for p in network.parameters())
    x.requires_grad_()
    network(x, c_noise).sum().backward()
    assert x.grad is not None and bool(x.grad.any())


def test_bfloat16_is_close(arguments: dict[str, Any]) -> None:
    network, x, c_noise = build(arguments), noise(2, 300), torch.tensor([-1.0, 0.3])
    exact = network(x, c_noise).detach()
    network.compute_dtype = torch.bfloat16
    rounded = network(x, c_noise).detach()
    assert rounded.dtype == torch.float32
    # bfloat16 has 8 bits: 0.2 to 0.4 % a rounding, a handful of roundings in a row.
    error = torch.linalg.vector_norm(rounded - exact) / torch.linalg.vector_norm(exact)
    assert 1e-4 < float(error) < 0.03


def test_gradient_checkpointing_changes_nothing(arguments: dict[str, Any]) -> None:
    gradients = []
    for switch in (False, True):
        network = build(arguments, gradient_checkpointing=switch)
        network(noise(2, 200), torch.tensor([-1.0, 0.3])).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_untrained_network_is_nearly_zero(arguments: dict[str, Any]) -> None:
    y = make_network(**arguments)(noise(2, 1000), torch.tensor([-1.0, 0.3])).detach()
    assert 0 < float(y.square().mean().sqrt()) < 0.01


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chanels": [8]}, "network 'cqtunet': .*'chanels'"),
        ({"layers": [1]}, "3 channels and 1 layers"),
        ({"channels": [8], "layers": [1]}, "1 octave"),
        ({"layer": "dense"}, "layer 'dense'"),
        ({"patch": [3, 1]}, "8 bins per octave are no multiple of patch 3"),
        ({"window": "boxcar"}, "window 'boxcar'"),
        ({"channels": [8, 8, 12], "layer": "dilated"}, "multiples of 8"),
        ({"name": "unet"}, r"unknown network 'unet' \(known: cqtunet, ncsnpp\)"),
    ],
    ids=str,
)
def test_wrong_arguments(tiny_network: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason) as caught:
        make_network(**{**tiny_network, **changes})
    assert "\n" not in str(caught.value)


def parameter_count(config_name: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("NLDIFF_DATA", "data")
    config = load_config(TrainingConfig, CONFIGS / config_name)
    with torch.device("meta"):
        return sum(p.numel() for p in make_network(**config.network).parameters())


def test_size_of_the_paper_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand, with c channels: a dilated layer has a 5 x 3 convolution (15 c^2), the modulation (256 x 2 c) and c
    # scales. Encoder and decoder have `layers` of them on each level, the bottleneck 3 more on the deepest.
    channels, layers = [32, 32, 64, 64, 128, 128, 256, 256], [1, 3, 4, 5, 5, 6, 6, 7]
    counts = [2 * n for n in layers]
    counts[-1] += 3
    stacks = sum(n * (15 * c * c + 512 * c + c) for n, c in zip(counts, channels, strict=True))
    # In and out of every octave and the linear group: 2 real channels; then between levels, down and up.
    ends = sum(2 * 2 * c for c in [*channels, channels[-1]]) + 9
    between = sum(2 * a * b for a, b in pairwise(channels))
    embedding = 32 * 128 + 128 * 256 + 256 * 256
    expected = stacks + ends + between + embedding
    assert parameter_count("guitar_paper.yaml", monkeypatch) == expected
    assert 40.5e6 < expected < 41.5e6


def test_small_network_fits_into_20_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parameter_count("guitar_small.yaml", monkeypatch) * 2 < 20e6


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
