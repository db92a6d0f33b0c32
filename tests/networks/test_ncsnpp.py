import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_networks import noise
from torch import Tensor, nn

from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.networks.layers import Conv, ScoreNetwork
from nldiff.networks.ncsnpp import NCSNpp
from nldiff.networks.ncsnpp_blocks import (
    Attention,
    BigGANBlock,
    FourierEmbedding,
    MagnitudePreservingBlock,
    MagnitudePreservingResampler,
)
from nldiff.training.prior import TrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "train"
BIGGAN: dict[str, Any] = {"name": "ncsnpp", "channels": [8, 16], "n_fft": 62, "hop": 16, "embedding": 16}
MAGNITUDE: dict[str, Any] = {
    **BIGGAN, "layer": "magnitude_preserving", "patch": 2, "progressive": False, "attention": False,
    "position_embedding": True,
}  # fmt: skip
# 8 output samples each for seed 0, float32; see `test_golden_values`.
GOLDEN: dict[str, tuple[dict[str, Any], list[float]]] = {
    "biggan": (BIGGAN, [0.21194, -0.56036, -0.21766, 0.52078, 0.0104, 0.83087, 0.23414, 0.23087]),
    "magnitude_preserving": (MAGNITUDE, [-0.06727, 0.01488, -0.12061, 0.09001, -0.03805, -0.00274, 0.06564, 0.03139]),
}


def shaken(module: nn.Module) -> nn.Module:
    """Move parameters away from zeros, ones and near-zero gains, the same way every time."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.add_(0.2 * noise(parameter.numel(), seed=100 + index).reshape(parameter.shape))
    return module


def configured(name: str, monkeypatch: pytest.MonkeyPatch) -> TrainingConfig:
    monkeypatch.setenv("NLDIFF_DATA", "data")
    return load_config(TrainingConfig, CONFIGS / f"{name}.yaml")


def parameter_count(network: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make_network(**network).parameters())


def test_fourier_embedding_by_hand() -> None:
    embedding = FourierEmbedding(16, scale=16.0)
    assert embedding.frequencies.shape == (4,)
    c_noise = torch.tensor([-0.7, 0.1])
    phase = 2 * math.pi * c_noise[:, None] * embedding.frequencies
    y = torch.cat([phase.sin(), phase.cos()], 1)
    for layer in ("0", "2"):
        y = F.silu(y @ embedding.get_parameter(f"mlp.{layer}.weight").T + embedding.get_parameter(f"mlp.{layer}.bias"))
    torch.testing.assert_close(embedding(c_noise), y)
    assert float(FourierEmbedding(4096, scale=16.0).frequencies.std()) == pytest.approx(16, rel=0.1)


def group_norm(x: Tensor, groups: int, norm: nn.Module) -> Tensor:
    parts = x.reshape(len(x), groups, -1)
    mean, variance = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, unbiased=False)
    y = ((parts - mean) / (variance + 1e-6).sqrt()).reshape(x.shape)
    return y * norm.get_parameter("weight")[:, None, None] + norm.get_parameter("bias")[:, None, None]


def mean_of_four(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def four_times(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


@pytest.mark.parametrize(
    ("resample", "reference"), [("", lambda x: x), ("halve", mean_of_four), ("double", four_times)]
)
@torch.no_grad()
def test_biggan_block_by_hand(resample: str, reference: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    outputs = 16 if resample else 24
    block = shaken(BigGANBlock(16, outputs, 8, resample))
    assert isinstance(block, BigGANBlock)
    assert block.skip is not None
    x, embedding = noise(2, 16, 6, 8), noise(2, 8, seed=1)
    y = reference(F.silu(group_norm(x, 4, block.norm_in)))
    y = F.conv2d(y, block.first.weight, padding=1)
    y = y + (embedding @ block.modulation.weight.T + block.modulation.bias)[:, :, None, None]
    y = F.conv2d(F.silu(group_norm(y, outputs // 4, block.norm_out)), block.second.weight, padding=1)
    x_skip = torch.einsum("oi,bift->boft", block.skip.weight[:, :, 0, 0], reference(x))
    torch.testing.assert_close(block(x, embedding), (x_skip + y + block.shift) / 2**0.5, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_by_hand() -> None:
    torch.manual_seed(0)
    block = shaken(Attention(16))
    assert isinstance(block, Attention)
    x = noise(2, 16, 3, 5)
    normalised = group_norm(x, 4, block.norm).flatten(2)
    query, key, value = (block.query_key_value.weight[:, :, 0, 0] @ normalised).chunk(3, dim=1)
    weights = torch.softmax(torch.einsum("bcq,bck->bqk", query, key) / 4, dim=-1)  # sqrt of 16 channels
    mixed = torch.einsum("bqk,bck->bcq", weights, value)
    y = (block.output.weight[:, :, 0, 0] @ mixed).reshape(x.shape)
    torch.testing.assert_close(block(x, noise(2, 8)), (x + y + block.shift) / 2**0.5, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_magnitude_preserving_parts_keep_unit_variance() -> None:
    torch.manual_seed(0)
    embedding = noise(1, 16, 1, 1)
    h = noise(1, 32, 32, 32)
    for part, shape in (
        (MagnitudePreservingResampler(32, "halve"), (1, 32, 16, 16)),
        (MagnitudePreservingResampler(32, "double"), (1, 32, 32, 32)),
        (MagnitudePreservingBlock(32, 48, 16), (1, 48, 32, 32)),
    ):
        h = part(h, embedding)
        assert h.shape == shape
        assert float(h.square().mean()) == pytest.approx(1, abs=0.1)


def test_resampler_folds_neighbours() -> None:
    down = MagnitudePreservingResampler(1, "halve")
    with torch.no_grad():
        down.conv.weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 4, 1, 1))
    x = torch.arange(8.0).reshape(1, 1, 2, 4)
    # rows 0 1 2 3 and 4 5 6 7; weights 1 2 / 3 4 of norm sqrt(30)
    expected = torch.tensor([0 + 2 + 12 + 20, 2 + 6 + 18 + 28]) / 30**0.5
    torch.testing.assert_close(down(x, x)[0, 0, 0], expected, rtol=1e-3, atol=0)


def test_size_of_the_paper_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # By hand, with width e = 512 of the embedding and blocks a -> b:
    def block(a: int, b: int, skip: bool) -> int:
        convolutions = 9 * a * b + 9 * b * b + (a * b if skip else 0)
        return convolutions + 2 * a + 2 * b + (512 * b + b) + b  # two norms, noise level, shift

    widths = [128, 256, 256, 256]
    # Input, the block of each level and the halving blocks between them: their outputs are the skip connections.
    skips, total = [128], 9 * 2 * 128
    for k, (a, b) in enumerate(pairwise([128, *widths])):
        if k:
            total += block(a, a, skip=True) + 2 * a  # and the pooled input
            skips.append(a)
        total += block(a, b, skip=a != b)
        skips.append(b)
    total += 2 * block(256, 256, skip=False) + (4 * 256 * 256 + 3 * 256)  # bottleneck: blocks and attention
    for k, b in reversed(list(enumerate(widths))):
        above = widths[min(k + 1, 3)]
        total += block(above + skips.pop(), b, skip=True) + block(b + skips.pop(), b, skip=True)
        total += 2 * b + 9 * b * 2  # norm and output convolution
        if k:
            total += block(b, b, skip=True)
    total += 2 * 2
    total += (256 * 512 + 512) + (512 * 512 + 512)
    assert parameter_count(configured("speech_paper", monkeypatch).network) == total
    assert total == pytest.approx(27.8e6, rel=0.01)


def test_size_of_the_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 5e6 < parameter_count(configured("speech_small", monkeypatch).network) < 8e6


@pytest.mark.parametrize("name", ["speech_paper", "speech_small"])
def test_nothing_is_padded_in_training(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(name, monkeypatch)
    with torch.device("meta"):
        network = make_network(**config.network)
    assert isinstance(network, NCSNpp)
    for length in [*config.segment_lengths, config.val_length]:
        assert length % network.granule == 0
        assert config.samples_per_step % length == 0


def convolution_inputs(network: ScoreNetwork, x: Tensor) -> list[Tensor]:
    """Inputs and outputs of all 3 x 3 convolutions and the gradients of the outputs."""
    seen: list[Tensor] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend([inputs[0], output])
        output.register_hook(seen.append)

    for module in network.modules():
        if isinstance(module, Conv) and module.weight.shape[2] == 3:
            module.register_forward_hook(note)
    network(x, torch.tensor([-0.5])).sum().backward()
    return seen


@pytest.mark.parametrize("arguments", [BIGGAN, MAGNITUDE], ids=["biggan", "magnitude_preserving"])
def test_convolutions_get_bfloat16_and_channels_last(arguments: dict[str, Any]) -> None:
    network = make_network(**arguments)
    shaken(network)
    network.compute_dtype = torch.bfloat16
    seen = convolution_inputs(network, noise(1, 320).requires_grad_())
    assert len(seen) > 30
    for tensor in seen:
        assert tensor.dtype == torch.bfloat16
        assert tensor.is_contiguous(memory_format=torch.channels_last), tensor.shape


# The paper's network at a quarter of its width, to be quick; its output starts at 1e-5 and is raised to unit gain.
@pytest.mark.parametrize(("name", "changes"), [("speech_paper", {"channels": [32, 64, 64, 64]}), ("speech_small", {})])
def test_bfloat16_of_the_configured_networks(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = make_network(**{**configured(name, monkeypatch).network, **changes})
    with torch.no_grad():
        for parameter in network.parameters():
            if 0 < float(parameter.abs().max()) < 1e-4:
                parameter.mul_(1e5)
    x, c_noise, probe = noise(1, 8192), torch.tensor([-0.8]), noise(1, 8192, seed=1)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        network.compute_dtype = dtype
        leaf = x.clone().requires_grad_()
        y = network(leaf, c_noise)
        (gradient,) = torch.autograd.grad((y * probe).sum(), leaf)
        results.append((y.detach(), gradient))
    # 8 bits: about 0.25 % a rounding, some 60 in a row add up to 2 %; the gradient goes through them twice.
    for exact, rounded, bound in zip(*results, (0.03, 0.06), strict=True):
        error = torch.linalg.vector_norm(rounded - exact) / torch.linalg.vector_norm(exact)
        assert 1e-4 < float(error) < bound


@pytest.mark.parametrize("arguments", [BIGGAN, MAGNITUDE], ids=["biggan", "magnitude_preserving"])
def test_silence_has_a_finite_gradient(arguments: dict[str, Any]) -> None:
    network = make_network(**arguments)
    shaken(network)
    x = torch.zeros(1, 320).requires_grad_()
    network(x, torch.tensor([-0.5])).sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name: str) -> None:
    arguments, expected = GOLDEN[name]
    torch.manual_seed(0)
    network = make_network(**arguments)
    shaken(network)
    y = network(noise(1, 150), torch.tensor([-0.5])).detach()
    torch.testing.assert_close(y[0, ::20], torch.tensor(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels": [8]}, "1 levels of 1 blocks and patch 1"),
        ({"blocks": 0}, "2 levels of 0 blocks"),
        ({"patch": 0}, "patch 0"),
        ({"patch": 3}, r"32 bins \(n_fft 62\) are no multiple of 6"),
        ({"n_fft": 64}, r"33 bins \(n_fft 64\) are no multiple of 2"),
        ({"hop": 48}, "n_fft 62 and hop 48"),
        ({"layer": "dilated"}, "layer 'dilated': biggan or magnitude_preserving"),
        ({"layer": "magnitude_preserving"}, "progressive=false and attention=false"),
        ({"channels": [8, 130]}, "130 channels do not divide into 32 groups"),
    ],
    ids=str,
)
def test_wrong_arguments(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NldiffError, match=f"network 'ncsnpp': .*{reason}") as caught:
        make_network(**{**BIGGAN, **changes})
    assert "\n" not in str(caught.value)
