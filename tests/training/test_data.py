from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from numpy.typing import NDArray

from nldiff.errors import NldiffError
from nldiff.training.data import Augmentation, Crops, equalise

RATE = 8000
LEVEL = 0.06


def sine(frequency: float, seconds: float, rate: int = RATE, amplitude: float = 0.3) -> NDArray[np.float64]:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)


def crops(folder: Path, **augmentation: float) -> Crops:
    return Crops(folder, RATE, LEVEL, Augmentation(**augmentation))  # type: ignore[arg-type]


def rms(x: torch.Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def peak_frequency(x: torch.Tensor, rate: int = RATE) -> float:
    """Frequency of the largest spectral line, read to a fraction of a bin from the parabola through its neighbours."""
    spectrum = np.log(np.abs(np.fft.rfft(x.numpy() * np.hanning(len(x)))) + 1e-12)
    k = int(np.argmax(spectrum[1:-1])) + 1
    a, b, c = spectrum[k - 1 : k + 2]
    return (k + 0.5 * (a - c) / (a - 2 * b + c)) * rate / len(x)


def amplitude(x: torch.Tensor, frequency: float) -> float:
    """Of a sine in a crop that holds whole periods."""
    n = np.arange(len(x))
    return 2 / len(x) * abs(np.exp(-2j * np.pi * frequency / RATE * n) @ x.double().numpy())


def test_a_crop_is_a_function_of_seed_step_and_item(guitar_folder: Path) -> None:
    everything = Augmentation(level_db=3.0, semitones=2.0, eq_db=2.0, polarity=True)
    one, other, reseeded = (Crops(guitar_folder, RATE, LEVEL, everything, seed) for seed in (5, 5, 6))
    keys = [(step, item, 1000) for step in range(3) for item in range(3)]
    expected = {key: one[key] for key in keys}
    for key in reversed(keys):  # whatever was drawn before
        assert torch.equal(other[key], expected[key])
    values = [*expected.values(), reseeded[keys[0]]]
    assert all(not torch.equal(a, b) for i, a in enumerate(values) for b in values[:i])
    assert all(x.shape == (1000,) and x.dtype == torch.float32 for x in values)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_keep_frequency_and_level(tmp_path: Path, rate: int) -> None:
    sf.write(tmp_path / "a.wav", sine(1000, 1.5, rate), rate)
    x = crops(tmp_path)[0, 0, 4000]
    assert peak_frequency(x) == pytest.approx(1000, abs=0.2)
    assert rms(x) == pytest.approx(LEVEL, rel=1e-5)
    # It is that sine and nothing else, up to the ends of the resampled piece.
    assert amplitude(x[200:-200], 1000) == pytest.approx(LEVEL * 2**0.5, rel=0.01)


def test_channels_are_separate_recordings(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.flac", np.stack([sine(500, 1), sine(900, 1)], axis=1), RATE)
    peaks = [peak_frequency(crops(tmp_path)[0, item, 2000]) for item in range(20)]
    assert {round(f) for f in peaks} == {500, 900}


def test_files_are_drawn_in_proportion_to_their_duration(tmp_path: Path) -> None:
    sf.write(tmp_path / "short.wav", sine(500, 0.5), RATE)
    sf.write(tmp_path / "long.wav", sine(900, 1.5, 16000), 16000)
    dataset = crops(tmp_path)
    share = np.mean([peak_frequency(dataset[0, item, 800]) > 700 for item in range(300)])
    assert share == pytest.approx(0.75, abs=0.1)  # four standard deviations of 300 draws


def test_weights_draw_files_more_often(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    sf.write(tmp_path / "note_1.wav", sine(500, 2), RATE)
    sf.write(tmp_path / "note_2.wav", sine(500, 1), RATE)
    sf.write(tmp_path / "more" / "di_1.wav", sine(900, 1), RATE)
    dataset = Crops(tmp_path, RATE, LEVEL, Augmentation(), weights={"di_*": 4.0, "note_1*": 0.5, "none_*": 9.0})
    share = np.mean([peak_frequency(dataset[0, item, 800]) > 700 for item in range(300)])
    assert share == pytest.approx(4 / 6, abs=0.11)  # 4 x 1 s against 0.5 x 2 s and 1 s


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        ({"*.wav": 0.0, "*.flac": 0.0}, "not all zero"),
        ({"a.wav": -1.0}, "no negative"),
    ],
    ids=str,
)
def test_wrong_weights(guitar_folder: Path, weights: dict[str, float], reason: str) -> None:
    with pytest.raises(NldiffError, match=f"^train_weights.*{reason}"):
        Crops(guitar_folder, RATE, LEVEL, Augmentation(), weights=weights)


def test_every_place_of_a_file_is_drawn(tmp_path: Path) -> None:
    sf.write(tmp_path / "ramp.wav", np.linspace(0.1, 0.9, 4000), RATE, subtype="FLOAT")
    dataset = crops(tmp_path)
    # A piece of a ramp tells where it was cut: its first sample over its rise, in the ramp's own units.
    starts = []
    for item in range(200):
        x = dataset[0, item, 400].double()
        starts.append(float(x[0] / (x[-1] - x[0]) * 399 - 0.1 / 0.8 * 3999))
    assert min(starts) < 200 and max(starts) > 3400
    assert np.mean(starts) == pytest.approx(1800, abs=4 * 3600 / np.sqrt(12 * 200))


def test_without_augmentation_the_level_is_exact(guitar_folder: Path) -> None:
    dataset = crops(guitar_folder)
    assert [rms(dataset[1, item, 900]) for item in range(10)] == pytest.approx([LEVEL] * 10, rel=1e-5)


def test_level_augmentation_is_normal_in_decibels(guitar_folder: Path) -> None:
    dataset = crops(guitar_folder, level_db=3.0)
    decibels = [20 * np.log10(rms(dataset[0, item, 200]) / LEVEL) for item in range(300)]
    assert np.mean(decibels) == pytest.approx(0, abs=0.7)
    assert np.std(decibels) == pytest.approx(3, abs=0.5)


@pytest.mark.parametrize(("polarity", "share"), [(False, 0.0), (True, 0.5)])
def test_polarity(tmp_path: Path, polarity: bool, share: float) -> None:
    sf.write(tmp_path / "a.wav", np.abs(sine(100, 1)), RATE)
    dataset = crops(tmp_path, polarity=polarity)
    negative = np.mean([float(dataset[0, item, 400].mean()) < 0 for item in range(300)])
    assert negative == pytest.approx(share, abs=0.12 if polarity else 0)


def test_speed_moves_pitch_within_its_limits(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", sine(1000, 2), RATE)
    dataset = crops(tmp_path, semitones=2.5)
    semitones = np.array([12 * np.log2(peak_frequency(dataset[0, item, 4000]) / 1000) for item in range(100)])
    assert np.abs(semitones).max() < 2.51
    assert semitones.min() < -2 and semitones.max() > 2
    assert np.std(semitones) == pytest.approx(5 / 12**0.5, abs=0.3)


def test_equaliser_by_hand() -> None:
    x = sine(1000, 1, 44100) + sine(80, 1, 44100)
    np.testing.assert_allclose(equalise(x, 44100, np.zeros(5)), x, atol=1e-12)
    y = torch.from_numpy(equalise(x, 44100, np.array([0.0, 0.0, 6.0, 0.0, 0.0])))

    def decibels(frequency: float) -> float:
        n = np.arange(44100)
        return 20 * np.log10(2 / 44100 * abs(np.exp(-2j * np.pi * frequency / 44100 * n) @ y.numpy()) / 0.3)

    assert decibels(1000) == pytest.approx(6, abs=1e-6)
    # 80 Hz is 3.64 octaves below: 6 exp(-3.64^2 / 2) dB.
    assert decibels(80) == pytest.approx(6 * np.exp(-0.5 * np.log2(1000 / 80) ** 2), abs=1e-6)


def test_equaliser_augmentation(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", sine(80, 2) + sine(3000, 2), RATE)
    dataset = crops(tmp_path, eq_db=2.0)
    measured = []
    for item in range(200):
        x = dataset[0, item, 4000]
        measured.append(20 * np.log10(amplitude(x, 3000) / amplitude(x, 80)))
    octaves = np.log2([80.0, 300.0, 1000.0, 3000.0, 9000.0])
    at = [np.exp(-0.5 * (np.log2(f) - octaves) ** 2) for f in (3000, 80)]
    expected = 2.0 * np.linalg.norm(at[0] - at[1])  # a sum of independent gains
    assert np.std(measured) == pytest.approx(expected, rel=0.25)


def test_short_files_are_filled_up_with_silence(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", sine(500, 0.1), RATE)
    x = crops(tmp_path)[0, 0, 2000]
    assert x.shape == (2000,)
    assert bool((x[800:] == 0).all()) and rms(x[:800]) > LEVEL


def test_silent_parts_are_passed_over(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.concatenate([np.zeros(4 * RATE), sine(500, 4)]), RATE)
    dataset = crops(tmp_path)
    assert [rms(dataset[0, item, 400]) for item in range(30)] == pytest.approx([LEVEL] * 30, rel=1e-4)


def test_silent_folder(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    with pytest.raises(NldiffError, match=rf"20 crops in a row of {tmp_path} are silent"):
        crops(tmp_path)[0, 0, 400]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match=r"nowhere does not exist"):
        crops(tmp_path / "nowhere")


def test_folder_without_audio(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to hear")
    with pytest.raises(NldiffError, match=rf"{tmp_path} is a folder without audio files"):
        crops(tmp_path)


def test_corrupted_file_is_named(guitar_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "good.wav").write_bytes((guitar_folder / "a.wav").read_bytes())
    (tmp_path / "bad.wav").write_bytes(b"RIFF, or something like it" * 20)
    with pytest.raises(NldiffError, match=rf"^{tmp_path}/bad.wav is not a readable audio file") as caught:
        crops(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.wav", "b.flac"])
def test_truncated_file_is_named(guitar_folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((guitar_folder / name).read_bytes()[:5000])
    with pytest.raises(NldiffError, match=rf"^{tmp_path}/{name} is truncated"):
        crops(tmp_path)


def test_file_that_goes_bad_while_training_is_named(tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", sine(500, 1), RATE)
    dataset = crops(tmp_path)
    (tmp_path / "a.wav").write_bytes(b"gone")
    with pytest.raises(NldiffError, match=rf"^{tmp_path}/a.wav "):
        dataset[0, 0, 400]
