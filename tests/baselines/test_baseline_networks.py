import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import plucked
from tiny_networks import noise
from torch import Tensor

from nldiff.baselines.crafx import AdaptiveActivation, CRAFx, cosine_filters
from nldiff.baselines.demucs import Demucs, double_rate, halve_rate
from nldiff.baselines.ideal_ratio_mask import ideal_ratio_mask
from nldiff.baselines.networks import make_network
from nldiff.baselines.open_unmix import OpenUnmix
from nldiff.baselines.wave_unet import WaveUNet, interpolate
from nldiff.errors import NldiffError
from nldiff.metrics.sdr import sdr, si_sdr


def parameter_count(name: str, **arguments: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make_network(name, **arguments).parameters())


def sine(frequency: float, times: Tensor) -> Tensor:
    """Of a frequency in cycles per sample, at times in samples; [1, time]."""
    return torch.sin(2 * math.pi * frequency * times.double() + 0.3).float()[None]


@pytest.mark.parametrize(
    ("name", "arguments", "expected", "tolerance"),
    [
        # Facts about the published speech denoiser.
        ("demucs", {"causal": True}, 18.87e6, 0.005),
        ("demucs", {}, 34.22e6, 0.005),
        # "approximately 1M" of the 2022 paper, and what fits into 5 MB in bfloat16.
        ("demucs", {"hidden": 32, "depth": 3}, 0.94e6, 0.01),
        ("demucs", {"hidden": 24, "depth": 6, "max_hidden": 96}, 1.09e6, 0.01),
        ("demucs", {"hidden": 32, "depth": 4, "max_hidden": 192}, 2.35e6, 0.01),
        ("wave-unet", {}, 0.98e6, 0.01),
        # By hand, 513 bins and width h: 4 statistics; h * 513 in and h * (513 + 2 h) out; norms; a bias; and three LSTM
        # layers of two directions and four gates, with h inputs, h / 2 states and two biases.
        ("umx", {}, 4 * 513 + 256 * (2 * 513 + 512 + 4) + 513 + 24 * 128 * (256 + 128 + 2), 0),
        ("umx", {"hidden": 512}, 4 * 513 + 512 * (2 * 513 + 1024 + 4) + 513 + 24 * 256 * (512 + 256 + 2), 0),
        # Filters, smoothing; LSTM layers of 288, 128, 64 inputs; two activations; dense layers; gates.
        ("crafx", {}, 32 * 64 + 32 * 129 + 8 * (64 * 354 + 32 * 162 + 16 * 82) + 2 * 32 * 27 + 2400 + 33312, 0),
    ],
)
def test_parameter_counts(name: str, arguments: dict[str, Any], expected: float, tolerance: float) -> None:
    assert parameter_count(name, **arguments) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"name": "unet"}, r"unknown network 'unet' \(known: demucs, wave-unet"),
        ({"name": "demucs", "resample": 3}, "resample 3: 1, 2 or 4"),
        ({"name": "demucs", "stride": 9}, "stride 9: at least 1 each, stride at most kernel"),
        ({"name": "demucs", "width": 9}, "unexpected keyword argument 'width'"),
        ({"name": "wave-unet", "levels": 0}, "0 levels of 13 channels"),
        ({"name": "wave-unet", "up_kernel": 4}, "kernels 15 and 4: odd numbers"),
        ({"name": "umx", "hidden": 15}, "hidden 15: an even number"),
        ({"name": "umx", "hop": 600}, "n_fft 1024 and hop 600: even numbers"),
        ({"name": "crafx", "frame": 1000}, "frame 1000, context 4: an even number, a multiple of 128"),
    ],
    ids=str,
)
def test_wrong_arguments(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason) as caught:
        make_network(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resample", [1, 2, 4])
@torch.no_grad()
def test_causal_demucs_knows_no_more_than_its_lookahead(resample: int) -> None:
    torch.manual_seed(0)
    network = Demucs(4, 3, causal=True, resample=resample)
    # 3 blocks of kernel 8 and stride 4: a latent frame is 8 + 4 * 7 + 16 * 7 = 148 samples at the inner rate.
    assert network.lookahead == {1: 148, 2: 74 + 112, 4: 37 + 112 + 56}[resample]
    x = noise(1, 2000)
    change = x.clone()
    change[:, 1200:] = noise(1, 800, seed=1)
    difference = (network(change) - network(x)).abs()[0]
    assert not difference[: 1200 - network.lookahead].any()
    # It does use the latent frame: but for the tails of the filters and one step of 64 samples of the deepest block.
    assert difference[: 1200 - (148 - 64) // resample].any()


@torch.no_grad()
def test_demucs_in_both_directions_knows_the_future() -> None:
    torch.manual_seed(0)
    network = Demucs(4, 3, causal=False, resample=1)
    x = noise(1, 2000)
    change = x.clone()
    change[:, 1200:] = noise(1, 800, seed=1)
    assert (network(change) - network(x))[0, :1000].any()


@torch.no_grad()
def test_demucs_works_at_a_multiple_of_the_rate() -> None:
    torch.manual_seed(0)
    plain, resampled = Demucs(4, 2, resample=1), Demucs(4, 2, resample=4)
    resampled.load_state_dict(plain.state_dict())
    y = noise(2, 500)
    torch.testing.assert_close(resampled(y), halve_rate(halve_rate(plain(double_rate(double_rate(y))))))


@torch.no_grad()
def test_residual_demucs_adds_the_input() -> None:
    networks = []
    for residual in (False, True):
        torch.manual_seed(0)
        networks.append(Demucs(4, 2, residual=residual))
    y = noise(2, 500)
    torch.testing.assert_close(networks[1](y) - networks[0](y), y)


@torch.no_grad()
def test_demucs_by_hand() -> None:
    torch.manual_seed(0)
    network = Demucs(2, 2, kernel=3, stride=2, lstm_layers=1, causal=True, resample=1)
    y = noise(1, 10)
    # 10 samples: 5 frames of 3 samples in steps of 2 cover 11, and 2 frames of 3 cover these 5.
    weights = dict(network.named_parameters())

    def gated(x: Tensor, name: str) -> Tensor:
        a, b = (weights[f"{name}.weight"][:, :, 0] @ x + weights[f"{name}.bias"][:, None]).chunk(2)
        return a * torch.sigmoid(b)

    def encode(x: Tensor, k: int) -> Tensor:
        frames = x.unfold(1, 3, 2)  # channels, frames, 3
        z = torch.einsum("cfk,ock->of", frames, weights[f"encoder.{k}.0.weight"])
        return gated((z + weights[f"encoder.{k}.0.bias"][:, None]).clamp(min=0), f"encoder.{k}.2")

    def decode(x: Tensor, k: int) -> Tensor:
        x, kernel = gated(x, f"decoder.{k}.0"), weights[f"decoder.{k}.2.weight"]
        z = weights[f"decoder.{k}.2.bias"][:, None].repeat(1, 2 * x.shape[1] + 1)
        for frame in range(x.shape[1]):
            z[:, 2 * frame : 2 * frame + 3] += torch.einsum("c,cok->ok", x[:, frame], kernel)
        return z

    first = encode(F.pad(y, (0, 1)), 0)
    second = encode(first, 1)
    assert (first.shape, second.shape) == ((2, 5), (4, 2))
    latent = network.lstm(second.T)[0].T
    expected = decode(decode(latent + second, 0).clamp(min=0) + first, 1)
    torch.testing.assert_close(network(y)[0], expected[0, :10])


def test_demucs_rescales_the_initial_weights() -> None:
    torch.manual_seed(0)
    weight = Demucs(16, 2).get_parameter("encoder.1.0.weight").detach()
    # PyTorch starts uniformly within 1 / sqrt(16 channels * 8 samples), of deviation 0.0510; half-way to 0.1.
    assert float(weight.std()) == pytest.approx(math.sqrt(0.1 / math.sqrt(3 * 16 * 8)), rel=0.03)


@pytest.mark.parametrize("frequency", [0.01, 0.12, 0.37, 0.47])
def test_resampling_of_a_sinusoid(frequency: float) -> None:
    doubled = double_rate(sine(frequency, torch.arange(600)))
    expected = sine(frequency, torch.arange(1200) / 2)
    middle = slice(240, 960)  # where the filter does not reach beyond the ends
    torch.testing.assert_close(doubled[:, middle], expected[:, middle], rtol=0, atol=2e-3)
    halved = halve_rate(expected)
    torch.testing.assert_close(halved[:, 120:480], sine(frequency, torch.arange(600))[:, 120:480], rtol=0, atol=2e-3)


@pytest.mark.parametrize("frequency", [0.27, 0.35, 0.46])
def test_halving_the_rate_removes_the_upper_half_of_the_band(frequency: float) -> None:
    assert float(halve_rate(sine(frequency, torch.arange(1200)))[:, 120:480].abs().max()) < 2e-3


def test_wave_unet_interpolates_between_neighbours() -> None:
    x = torch.tensor([[[1.0, 3.0, -2.0]]])
    assert interpolate(x).tolist() == [[[1.0, 2.0, 3.0, 0.5, -2.0, -2.0]]]


@torch.no_grad()
def test_wave_unet_by_hand() -> None:
    torch.manual_seed(0)
    network = WaveUNet(1, 2, down_kernel=3, up_kernel=3)
    weights = dict(network.named_parameters())

    def convolve(x: Tensor, name: str) -> Tensor:
        z = torch.einsum("cfk,ock->of", F.pad(x, (1, 1)).unfold(1, 3, 1), weights[f"{name}.weight"])
        z += weights[f"{name}.bias"][:, None]
        return torch.where(z > 0, z, 0.2 * z)

    y = noise(1, 7)
    padded = F.pad(y, (0, 1))
    skip = convolve(padded, "encoder.0")
    up = np.zeros((4, 8), dtype=np.float32)
    up[:, ::2] = convolve(skip[:, ::2], "encoder.1")
    up[:, 1::2] = (up[:, ::2] + np.append(up[:, 2::2], up[:, -2:-1], axis=1)) / 2
    x = torch.cat([padded, convolve(torch.cat([skip, torch.from_numpy(up)]), "decoder.0")])
    expected = weights["output.weight"][:, :, 0] @ x + weights["output.bias"]
    torch.testing.assert_close(network(y), expected[:, :7])


@pytest.mark.parametrize("samples", [1, 15, 640, 1001])
@torch.no_grad()
def test_umx_with_a_mask_of_one_returns_its_input(samples: int) -> None:
    torch.manual_seed(0)
    network = OpenUnmix(8, 1, n_fft=64, hop=16)
    network.output_scale.zero_()
    y = noise(2, samples)
    torch.testing.assert_close(network(y), y)
    network.output_mean.fill_(1.5)
    torch.testing.assert_close(network(y), 1.5 * y)
    network.output_mean.fill_(-1.0)
    assert not network(y).any()


@torch.no_grad()
def test_umx_can_start_with_a_quieter_mask() -> None:
    torch.manual_seed(0)
    network = OpenUnmix(8, 1, n_fft=64, hop=16)
    torch.manual_seed(0)
    quieter = OpenUnmix(8, 1, n_fft=64, hop=16, initial_mask=0.25)
    y = noise(2, 300)
    torch.testing.assert_close(quieter(y), network(y) / 4)


@torch.no_grad()
def test_umx_scales_bins_and_keeps_their_phase() -> None:
    torch.manual_seed(0)
    network = OpenUnmix(8, 1, n_fft=64, hop=16)
    network.output_scale.zero_()
    network.output_mean.zero_()
    network.output_mean[:8] = 1.0  # up to 7 / 64 cycles per sample
    low, high = sine(3 / 64, torch.arange(640)), sine(20 / 64, torch.arange(640))
    # The middle: at the ends the padding with zeros makes the tones wide.
    torch.testing.assert_close(network(low + high)[:, 64:-64], low[:, 64:-64], rtol=0, atol=1e-4)


@torch.no_grad()
def test_umx_by_hand() -> None:
    torch.manual_seed(0)
    network = OpenUnmix(4, 1, n_fft=16, hop=8)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    weights = dict(network.named_parameters())
    y = noise(1, 40)
    spectrum = network.spectrogram.forward(y)[0].T  # frames, bins

    def normalise(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = (spectrum.abs() + weights["input_mean"]) * weights["input_scale"]
    x = normalise(x @ weights["enter.0.weight"].T, "enter.1").tanh()
    x = torch.cat([x, network.lstm(x)[0]], 1)
    x = normalise(x @ weights["leave.0.weight"].T, "leave.1").clamp(min=0)
    x = x @ weights["leave.3.weight"].T + weights["leave.3.bias"]
    mask = (x * weights["output_scale"] + weights["output_mean"]).clamp(min=0)
    torch.testing.assert_close(network(y), network.spectrogram.inverse((mask * spectrum).T[None]))


def activation(value: float, slope: float, changes: list[float]) -> AdaptiveActivation:
    """Two channels, the second of which is the first plus 1."""
    function = AdaptiveActivation(2, len(changes))
    with torch.no_grad():
        function.value.copy_(torch.tensor([value, value + 1]))
        function.slope.fill_(slope)
        function.slope_change.copy_(torch.tensor([changes, changes]))
    return function


@torch.no_grad()
def test_adaptive_activation_by_hand() -> None:
    # From 0.5 at -1 with slope 1, growing to 3 at 0 (mean 2) and falling to -1 at 1 (mean 1); straight lines outside.
    function = activation(0.5, 1.0, [2.0, -4.0])
    x = torch.tensor([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0])
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.25, 2.5, 3.5, 3.5, 2.5, -0.5])
    torch.testing.assert_close(function(x.expand(1, 2, -1))[0], torch.stack([expected, expected + 1]))


@torch.no_grad()
def test_adaptive_activation_against_numerical_integration() -> None:
    changes = noise(25, seed=3).tolist()
    function = activation(0.3, -0.7, changes)
    x = torch.linspace(-1.5, 1.5, 30001, dtype=torch.float64)
    slopes = np.interp(x.numpy(), np.linspace(-1, 1, 26), -0.7 + np.append(0, np.cumsum(changes)))
    integral = np.append(0, np.cumsum((slopes[1:] + slopes[:-1]) / 2 * 1e-4))
    expected = 0.3 + integral - integral[5000]  # x = -1
    values = function.double()(x.expand(1, 2, -1))[0, 0].numpy()
    np.testing.assert_allclose(values, expected, atol=1e-6)
    # Neither value nor slope jumps at a break point: along 1e-4 the slope changes by max |change| 1e-4 / 0.08 at most.
    assert np.abs(np.diff(values, 2)).max() < 1.01 * np.abs(changes).max() / 0.08 * 1e-8


def test_adaptive_activation_gradients() -> None:
    function = activation(0.3, -0.7, noise(5, seed=3).tolist()).double()
    x = torch.tensor([-2.0, -0.9, -0.5, -0.1, 0.3, 0.7, 1.7], dtype=torch.float64).expand(2, 2, -1).clone()
    parameters = list(function.parameters())

    def apply(x: Tensor, *_: Tensor) -> Tensor:
        return function(x)

    assert torch.autograd.gradcheck(apply, (x.requires_grad_(), *parameters))


def test_adaptive_activation_starts_as_a_straight_line() -> None:
    x = noise(2, 3, 50)
    torch.testing.assert_close(AdaptiveActivation(3)(x), x)
    torch.testing.assert_close(AdaptiveActivation(3, offset=1.0)(x), 1 + x)


@pytest.mark.parametrize("bands", [4, 32])
def test_power_responses_of_the_filters_add_up_to_one(bands: int) -> None:
    responses = torch.fft.rfft(cosine_filters(bands).double(), n=512)
    torch.testing.assert_close(responses.abs().square().sum(0), torch.ones(257, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 128, 700])
@torch.no_grad()
def test_crafx_with_constant_gains_returns_its_input(samples: int) -> None:
    torch.manual_seed(0)
    network = CRAFx(4, frame=256, context=1)
    for function, value in ((network.gain, 1.5), (network.shape[-1], 0.0)):
        assert isinstance(function, AdaptiveActivation)
        function.value.fill_(value)
        function.slope.zero_()
    y = noise(2, samples)
    torch.testing.assert_close(network(y), 1.5 * y)


@torch.no_grad()
def test_crafx_frames_and_gates_by_hand() -> None:
    torch.manual_seed(0)
    network = CRAFx(4, frame=256, context=1)
    envelopes = noise(1, 4, 6).abs()  # 3 hops of 2 values each
    bias = network.smooth.bias
    assert bias is not None
    silence = F.softplus(bias)[:, None].expand(-1, 4)
    padded = torch.cat([silence, envelopes[0], silence], dim=1)
    gains = network.recur(envelopes)
    assert gains.shape == (1, 4, 4, 4)
    for frame in range(4):
        # Frame m begins at value 2 m - 2 of the signal, that is 2 m + 2 here; its neighbours 2 values before and after.
        x = torch.cat([padded[:, 2 * frame + 2 + shift :][:, :4] for shift in (-2, 0, 2)])[None].transpose(1, 2)
        for lstm in network.lstms:
            x = lstm(x)[0]
        torch.testing.assert_close(gains[0, frame], 1 + x[0].T)

    shaped = noise(1, 4, 3 * 128)
    means = shaped[0].abs().reshape(4, 3, 128).mean(2)
    middle = torch.stack([means[:, 0], (means[:, 0] + means[:, 1]) / 2, (means[:, 1] + means[:, 2]) / 2, means[:, 2]])
    torch.testing.assert_close(network.gates(shaped)[0, :, :, 0], network.excite(middle))

    # Values in the middle of steps: Hann windows of 4 steps are at sin^2 of 22.5 and 67.5 degrees there.
    frames = noise(1, 4, 4, 4, seed=1)
    faded = network.cross_fade(frames)
    low, high = math.sin(math.pi / 8) ** 2, math.cos(math.pi / 8) ** 2
    torch.testing.assert_close(faded[0, :, 2], high * frames[0, 1, :, 2] + low * frames[0, 2, :, 0])
    torch.testing.assert_close(faded[0, :, 3], low * frames[0, 1, :, 3] + high * frames[0, 2, :, 1])


@torch.no_grad()
def test_crafx_knows_its_context_only() -> None:
    torch.manual_seed(0)
    network = CRAFx(4, frame=256, context=1)
    y = noise(1, 2000)
    change = y.clone()
    change[:, 1200:] = noise(1, 800, seed=1)
    difference = (network(change) - network(y)).abs()[0]
    # Two hops of a frame, one of its neighbour, and one more by the gates; filters reach 4 + 8 samples.
    assert not difference[: 1200 - 4 * 128 - 12].any()
    assert difference[: 1200 - 3 * 128].any()


@pytest.mark.parametrize(("position", "raised"), [(124, [1]), (125, [1, 2]), (131, [1, 2]), (132, [2])])
@torch.no_grad()
def test_crafx_envelopes_are_centred(position: int, raised: list[int]) -> None:
    network = CRAFx(2, frame=128, context=0)
    network.smooth.weight.fill_(1.0)
    network.smooth.get_parameter("bias").zero_()
    click = torch.zeros(1, 2, 256)
    click[:, :, position] = -1.0  # raises 4 samples before to 3 after; steps begin at 0, 64, 128, 192
    envelopes = network.envelopes(click)[0, 0]
    assert [k for k in range(4) if float(envelopes[k]) > 1] == raised  # softplus(0) = 0.69, softplus(1) = 1.31


@torch.no_grad()
def test_crafx_by_hand() -> None:
    torch.manual_seed(0)
    network = CRAFx(2, frame=128, context=0)
    y = noise(1, 100)
    padded = F.pad(math.sqrt(2) * y, (2, 26))  # 2 hops of 64 samples
    # Centred filters, so that their reversal in time has no delay: taps -1 ... 2 and -3 ... 4.
    bands = torch.einsum("tk,ck->ct", F.pad(padded, (1, 2))[0].unfold(0, 4, 1), network.filters[:, 0])
    smoothed = torch.einsum("ctk,ck->ct", F.pad(bands.abs(), (3, 4)).unfold(1, 8, 1), network.smooth.weight[:, 0])
    assert network.smooth.bias is not None
    envelopes = F.softplus(smoothed + network.smooth.bias[:, None]).reshape(2, 2, 64).amax(2)
    x = bands * network.cross_fade(network.recur(envelopes[None]))[0].repeat_interleave(64, dim=1)
    shaped = network.shape(x[None])
    x = x + (shaped * network.cross_fade(network.gates(shaped)).repeat_interleave(64, dim=2))[0]
    expected = torch.zeros(131)
    for band in range(2):
        expected += torch.from_numpy(np.convolve(x[band].numpy(), network.filters[band, 0].numpy()))
    torch.testing.assert_close(network(y)[0], expected[1 + 2 : 1 + 2 + 100] / math.sqrt(2))


def test_ideal_ratio_mask_takes_magnitudes_from_one_and_phases_from_the_other() -> None:
    clean = noise(2, 1001)
    torch.testing.assert_close(ideal_ratio_mask(clean, clean, 64, 16), clean)
    torch.testing.assert_close(ideal_ratio_mask(clean, 3 * clean, 64, 16), clean)
    torch.testing.assert_close(ideal_ratio_mask(clean, -0.1 * clean, 64, 16), -clean)
    assert not ideal_ratio_mask(torch.zeros(1, 50), noise(1, 50), 64, 16).any()


def test_ideal_ratio_mask_improves_a_noisy_mixture() -> None:
    clean = torch.from_numpy(plucked(1.0, 8000))[None]
    noisy = clean + 0.05 * noise(1, 8000)
    before, after = si_sdr(clean, noisy), si_sdr(clean, ideal_ratio_mask(clean, noisy))
    assert float(after[0]) > float(before[0]) + 5


def test_ideal_ratio_mask_raises_peaks() -> None:
    clean = torch.from_numpy(plucked(1.0, 8000))[None]
    clipped = clean.clamp(-0.1, 0.1)
    restored = ideal_ratio_mask(clean, clipped)
    assert float(sdr(clean, restored)[0]) > float(sdr(clean, clipped)[0]) + 5
    assert float(restored.abs().max()) > 0.3  # a mask of at most 1 would stay near 0.1


@pytest.mark.parametrize(
    ("observed", "hop", "reason"),
    [((1, 90), 16, r"clean \(1, 100\) and observed \(1, 90\)"), ((1, 100), 33, "n_fft 64 and hop 33")],
)
def test_ideal_ratio_mask_refuses(observed: tuple[int, int], hop: int, reason: str) -> None:
    with pytest.raises(NldiffError, match=reason):
        ideal_ratio_mask(noise(1, 100), noise(*observed), 64, hop)


def unit_rms(x: Tensor) -> Tensor:
    return x / x.square().mean(1, keepdim=True).sqrt()


def added_harmonics() -> tuple[Tensor, Tensor]:
    """Decaying tones and the same with odd harmonics, 15 dB; a mask can separate them."""
    t, f = torch.arange(4000) / 8000, torch.tensor([[220.0], [330.0]])
    clean = unit_rms(torch.sin(2 * math.pi * f * t) * (0.2 + torch.exp(-3 * t)))
    return clean, clean - 0.25 * torch.sin(6 * math.pi * f * t) + 0.1 * torch.sin(10 * math.pi * f * t)


def clipped_strings() -> tuple[Tensor, Tensor]:
    """Strings, clipped at 1.2 times their RMS, 12 dB; needs the phase as well."""
    clean = unit_rms(torch.from_numpy(np.stack([plucked(0.5, 8000, seed) for seed in (0, 1)])))
    return clean, unit_rms(clean.clamp(-1.2, 1.2))


FITTING: dict[str, dict[str, Any]] = {
    "demucs": {"name": "demucs", "hidden": 16, "depth": 3, "max_hidden": 32, "resample": 1},
    "demucs-residual": {"name": "demucs", "hidden": 16, "depth": 3, "max_hidden": 32, "resample": 1, "residual": True},
    "wave-unet": {"name": "wave-unet", "levels": 5, "channels": 8},
    "umx": {"name": "umx", "hidden": 64, "layers": 2, "n_fft": 256, "hop": 64},
    "crafx": {"name": "crafx", "filters": 16, "frame": 512, "context": 1},
}


@pytest.mark.parametrize(
    ("setting", "task", "steps"),
    [
        ("demucs", clipped_strings, 600),
        ("demucs-residual", clipped_strings, 600),
        ("wave-unet", clipped_strings, 600),
        ("umx", added_harmonics, 200),
        ("crafx", added_harmonics, 100),
        pytest.param("crafx", clipped_strings, 2000, marks=pytest.mark.slow),
    ],
)
def test_a_batch_can_be_learned(setting: str, task: Any, steps: int) -> None:
    torch.manual_seed(0)
    (clean, observed), network = task(), make_network(**FITTING[setting])
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    assert sdr(clean, observed).mean() < 16
    reached = 0.0
    for _ in range(steps):
        estimate = network(observed)
        reached = float(sdr(clean, estimate.detach()).mean())
        if reached > 25:
            break
        error = (clean - estimate).square().sum(1) / clean.square().sum(1)
        optimiser.zero_grad()
        (10 * torch.log10(error)).mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    assert reached > 25
