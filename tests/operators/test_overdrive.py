import shutil
import subprocess

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from nldiff.operators import Distortion, estimate_input_rms
from nldiff.operators.distortions import overdrive_static

# noise-like 16-bit samples over all of full scale
N = np.arange(2000)
LOUD = (7 * N**2 + 12345 * N) % 65536 - 32768
QUIET = LOUD // 32

# Output of SoX 14.4.2, 32-bit integers, at the samples 0, 1, 2, 100 and 1999 of both signals:
# sox -D -t raw -e signed -b 16 -r 16000 -c 1 IN -t raw -e signed -b 32 OUT overdrive GAIN COLOUR
SHOWN = [0, 1, 2, 100, 1999]
RECORDED = [
    (QUIET, 0, 50, [-67108864, -41811968, -16515072, 54329344, -17498112]),
    (QUIET, 1, 0, [-90004327, -55803487, -21698116, 73008277, -22161398]),
    (QUIET, 20, 20, [-370657985, -171292969, 31371536, 512009761, -123013830]),
    (QUIET, 35.5, 100, [-1107296256, -923981571, 69088159, 989683496, -247697659]),
    (QUIET, 50, 7.5, [-1107296256, -1089279099, -1071288785, 1099385390, -1052618433]),
    (QUIET, 100, 0, [-1107296256, -1089279099, -1071288785, 1108510327, -1038870691]),
    (LOUD, 0, 50, [-2147483648, -1337982976, -527564800, 1739849728, -557973504]),
    (LOUD, 1, 0, [-2147483648, -1606140158, -686437368, 1933530100, -711468810]),
    (LOUD, 20, 20, [-2147483648, -1737364603, -1326813649, 1937721897, -1328889981]),
    (LOUD, 35.5, 100, [-2147483648, -1737364603, -1326813649, 1945287375, -1321428090]),
    (LOUD, 50, 7.5, [-2147483648, -1737364603, -1326813649, 1951270519, -1310655505]),
    (LOUD, 100, 0, [-2147483648, -1737364603, -1326813649, 1951270519, -1309116093]),
]


def overdrive(x: Tensor, gain_db: float = 20, colour: float = 20) -> Tensor:
    return Distortion("overdrive", {"gain_db": gain_db, "colour": colour})(x)


def integers(y: Tensor, bits: int = 32) -> NDArray[np.int64]:
    """Samples of `bits` bits, rounded to the nearest and limited as SoX does."""
    scale = 2 ** (bits - 1)
    return np.clip(np.rint(y.numpy() * scale), -scale, scale - 1).astype(np.int64)


@pytest.mark.parametrize(("samples", "gain_db", "colour", "recorded"), RECORDED)
def test_recorded_output_of_sox(samples: NDArray[np.int64], gain_db: float, colour: float, recorded: list[int]) -> None:
    y = overdrive(torch.from_numpy(samples / 32768)[None], gain_db, colour)
    np.testing.assert_allclose(integers(y)[0, SHOWN], recorded, rtol=0, atol=1)
    in_float32 = overdrive(torch.from_numpy(samples / 32768)[None].float(), gain_db, colour)
    assert in_float32.dtype == torch.float32
    np.testing.assert_allclose(in_float32[0, SHOWN].numpy(), np.array(recorded) / 2**31, rtol=0, atol=1e-7)


@pytest.mark.skipif(
    shutil.which("sox") is None, reason="the program sox is not installed: only its recorded output is compared"
)
@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("colour", [0, 20, 50.5, 100])
@pytest.mark.parametrize("gain_db", [0, 0.01, 10, 20, 35, 50, 100])
def test_output_of_the_installed_sox(gain_db: float, colour: float, bits: int) -> None:
    silence_and_square = np.where(N < 1000, 0, np.where(N // 50 % 2, 32767, -32768))
    stereo = np.concatenate([np.stack([QUIET, LOUD]), np.stack([silence_and_square, QUIET])], axis=1)
    raw = ["-t", "raw", "-e", "signed", "-L", "-r", "44100", "-c", "2"]
    sox = subprocess.run(
        ["sox", "-D", "-V1", *raw, "-b", "16", "-", *raw, "-b", str(bits), "-", "overdrive", str(gain_db), str(colour)],
        input=stereo.T.astype("<i2").tobytes(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    expected = np.frombuffer(sox.stdout, f"<i{bits // 8}").reshape(-1, 2).T
    y = overdrive(torch.from_numpy(stereo / 32768), gain_db, colour)
    assert np.abs(integers(y, bits) - expected).max() <= 1


def test_an_impulse_by_hand() -> None:
    # 20 dB, no colour: v = 0.5 - 0.125 / 3 = 11 / 24, then 0; u = v, (0.995 - 1) v, 0.995 (0.995 - 1) v
    y = overdrive(torch.tensor([[0.05, 0.0, 0.0]], dtype=torch.float64), 20, 0)
    expected = [[0.025 + 0.75 * 11 / 24, -0.75 * 0.005 * 11 / 24, -0.75 * 0.995 * 0.005 * 11 / 24]]
    torch.testing.assert_close(y, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_colour_makes_a_decaying_click_out_of_silence() -> None:
    # v is w(0.1) = 0.299 / 3 from the first sample on: its onset goes through the filter
    y = overdrive(torch.zeros(1, 3000, dtype=torch.float64), 40, 20)[0]
    expected = 0.75 * 0.299 / 3 * 0.995 ** torch.arange(3000, dtype=torch.float64)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-15)


def test_output_and_input_are_limited_to_full_scale() -> None:
    # v = -2 / 3, 2 / 3, 0: u = -2 / 3, 4 / 3 - 0.995 * 2 / 3 = 0.67, -2 / 3 + 0.995 * 0.67 = -1 / 60000
    expected = torch.tensor([[-1.0, 1.0, -0.0000125]], dtype=torch.float64)  # 0.5 + 0.75 * 0.67 is beyond 1
    for peak in (1.0, 7.0):
        y = overdrive(torch.tensor([[-peak, peak, 0.0]], dtype=torch.float64), 20, 0)
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)
    # at 1 dB and colour 100 the clipper does not hide a limit that was forgotten at the input
    loud, full = (overdrive(torch.tensor([[-peak]], dtype=torch.float64), 1, 100) for peak in (1.2, 1.0))
    assert torch.equal(loud, full)


@pytest.mark.parametrize("colour", [0, 20, 100])
def test_the_static_curve_is_what_the_filter_leaves_alone(colour: float) -> None:
    # at half the sample rate the filter's gain is 2 / 1.995, at 0 Hz it is 0
    x = 0.03 * (-1.0) ** torch.arange(6000, dtype=torch.float64)[None]
    wet = overdrive_static(x, 20, colour) - x / 2
    expected = x / 2 + (wet - wet.mean()) * 2 / 1.995
    torch.testing.assert_close(overdrive(x, 20, colour)[:, 5000:], expected[:, 5000:], rtol=0, atol=1e-10)


def test_items_are_processed_alone_and_the_default_is_that_of_sox() -> None:
    x = torch.from_numpy(np.stack([LOUD, QUIET]) / 32768)
    y = Distortion("overdrive")(x)
    assert torch.equal(y, torch.cat([overdrive(x[:1], 20, 20), overdrive(x[1:], 20, 20)]))
    assert overdrive(x[:, :0]).shape == (2, 0)


def test_gradient_matches_finite_differences() -> None:
    x = torch.tensor([[-0.31, -0.05, 0.02, 0.07], [0.04, -0.06, 0.01, 0.3]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(overdrive, (x,))
    assert torch.autograd.gradgradcheck(overdrive, (x,))


def test_context_is_where_the_filter_has_forgotten_60_db() -> None:
    assert 0.995**1379 < 1e-3 < 0.995**1378
    assert Distortion("overdrive").context == 1379
    assert Distortion("overdrive", {"pole": 0.5}).context == 10  # 2^-10 = 1 / 1024


def test_the_click_of_silence_lasts_as_long_at_another_rate() -> None:
    own = Distortion("overdrive", {"gain_db": 40, "mix": 0.5})
    other = own.at_rate(8000, 16000)
    assert isinstance(other, Distortion)
    assert other.params == {"gain_db": 40, "colour": 20, "pole": pytest.approx(0.995**0.5), "mix": 0.5}
    silence = torch.zeros(1, 6000, dtype=torch.float64)
    torch.testing.assert_close(other(silence)[:, ::2], own(silence)[:, :3000], rtol=0, atol=1e-12)
    assert own.at_rate(16000, 16000) is own


def test_no_gain_changes_nothing_neither_with_the_filter_nor_without() -> None:
    x = torch.linspace(-1, 1, 41)[None]
    none = Distortion("overdrive", {"gain_db": 0, "colour": 50})
    assert torch.equal(none(x), x)
    assert torch.equal(none.static(x), x)
    assert not torch.equal(Distortion("overdrive_static", {"gain_db": 0, "colour": 50})(x), x)


def test_input_level_is_that_of_the_static_curve() -> None:
    with_filter, without = (Distortion(name, {"gain_db": 30}) for name in ("overdrive", "overdrive_static"))
    assert estimate_input_rms(with_filter, 0.4) == estimate_input_rms(without, 0.4) != 0.4


@pytest.mark.parametrize("gain_db", [0, 1, 20, 35, 50, 100])
@pytest.mark.parametrize("colour", [0, 20, 100])
def test_the_inversion_gives_back_what_was_overdriven(gain_db: float, colour: float) -> None:
    x = torch.from_numpy(np.random.default_rng(0).laplace(0, 0.05, (2, 3000))).clamp(-0.4, 0.4)
    known = Distortion("overdrive", {"gain_db": gain_db, "colour": colour})
    y = known(x).numpy()
    inside = np.abs(y) < 1
    assert inside.all()
    inversion = known.inversion()
    assert inversion is not None
    np.testing.assert_allclose(inversion(y), x.numpy(), atol=1e-9)
    first, states = inversion.step(y[:, :100], np.zeros((2, 1)))
    np.testing.assert_array_equal(first, inversion(y)[:, :100])
    np.testing.assert_array_equal(inversion.step(y[:, 100:], states)[0], inversion(y)[:, 100:])
