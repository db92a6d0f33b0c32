import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import tones
from tiny_refinement import TINY_REFINEMENT
from training_runs import losses, rows, write_yaml

from nldiff.cli import main
from nldiff.errors import NldiffError
from nldiff.networks.refinement import make_refinement_network
from nldiff.operators import Distortion
from nldiff.restoration.learned import load_refiner
from nldiff.restoration.sparse import RefinementSettings, sparsest_consistent
from nldiff.sound.histogram import histogram_match
from nldiff.training.curves import CurveErrors, noisy_and_known
from nldiff.training.data import Augmentation
from nldiff.training.examples import Example, compute_example, mirrored
from nldiff.training.refinement import (
    RefinementConfig,
    SpectrumLoss,
    refinement_loss,
    train_refinement,
    training_examples,
    validate,
    validation_examples,
)

BRIEF = RefinementSettings(iterations=5, windows=(128, 256))
CPU = torch.device("cpu")


@pytest.fixture
def config(guitar_folder: Path, tmp_path: Path) -> RefinementConfig:
    """A run of a few milliseconds a step: two stretches of 512 samples of examples of 1024."""
    return RefinementConfig(
        run_dir=str(tmp_path / "run"),
        train_data=str(guitar_folder),
        val_data=str(guitar_folder),
        sample_rate=8000,
        network=TINY_REFINEMENT,
        augmentation=Augmentation(),
        examples=3,
        example_length=1024,
        refinement=BRIEF,
        distortions=[{"name": "hard_clip", "sdr": [1, 10]}],
        val_distortions=["hard_clip:sdr=3", "half_wave"],
        trust=0.5,
        samples_per_step=1024,
        segment_lengths=[512],
        steps=4,
        learning_rate=1e-3,
        precision="float32",
        val_every=2,
        val_items=2,
        val_length=1024,
        checkpoint_every=2,
    )


NO_SPECTRUM = SpectrumLoss(0.0)


def example() -> Example:
    """A signal of 1 s that was clipped, and what is found of it, as a batch of one."""
    found = compute_example(
        tones(0)[0], Distortion("hard_clip", {"threshold": 0.05}), CurveErrors(0, 0, 0), BRIEF, np.random.default_rng(0)
    )
    assert found is not None
    return Example.unstacked(found.stacked()[None])


def test_an_example_is_what_a_restoration_finds() -> None:
    x, operator = tones(0), Distortion("hard_clip", {"threshold": 0.05})
    found = example()
    rms = float(x.square().mean().sqrt())
    torch.testing.assert_close(found.clean, x / rms)
    y, curve = noisy_and_known(operator, operator(x), rms, CurveErrors(0, 0, 0), np.random.default_rng(0))
    assert curve is not None
    bounds = curve.feasible(y)
    torch.testing.assert_close(found.low, bounds.low / rms)
    torch.testing.assert_close(found.high, bounds.high / rms)
    first = torch.from_numpy(histogram_match(y.numpy(), rms)(y.numpy()))
    refined = sparsest_consistent(first, bounds, BRIEF.windows, BRIEF.iterations, BRIEF) / rms
    torch.testing.assert_close(torch.clamp(found.found.mean(1), found.low, found.high), refined)


def test_nothing_is_left_of_some_signals() -> None:
    x, random = tones(0)[0], np.random.default_rng(0)
    for operator in (Distortion("quantize", {"step": 9.0}), Distortion("wavefold", {"threshold": 0.03})):
        assert compute_example(x, operator, CurveErrors(), BRIEF, random) is None


def test_a_mirrored_example_is_that_of_the_mirrored_signal() -> None:
    parts = torch.arange(5.0)[None, :, None]
    turned = mirrored(parts)
    assert turned.flatten().tolist() == [0.0, -2.0, -1.0, -3.0, -4.0]
    assert torch.equal(mirrored(turned), parts)


def test_the_loss_by_hand() -> None:
    given = example()
    mean = torch.clamp(given.found.mean(1), given.low, given.high)
    assert float(refinement_loss(given, mean, NO_SPECTRUM)) == pytest.approx(0, abs=1e-6)
    # Half of the error everywhere: a quarter of its square, but for the floor of the error.
    halved = (mean + given.clean) / 2
    assert float(refinement_loss(given, halved, NO_SPECTRUM)) == pytest.approx(-math.log(4), abs=0.02)
    # Errors of exact samples do not count.
    exact = given.high - given.low < 1e-3
    assert 0.1 < float(exact.float().mean()) < 0.9
    assert float(refinement_loss(given, mean + exact, NO_SPECTRUM)) == pytest.approx(0, abs=1e-6)
    assert float(refinement_loss(given, given.clean, SpectrumLoss(1.0))) < -5


def test_the_spectral_loss_of_noise_that_is_twice_as_loud() -> None:
    x = torch.randn(1, 8192, generator=torch.Generator().manual_seed(0))
    given = Example(x, torch.full_like(x, -torch.inf), torch.full_like(x, torch.inf), x[:, None] + 1)

    def part(floor: float) -> float:
        with_spectra = float(refinement_loss(given, 2 * x, SpectrumLoss(0.5, floor)))
        return with_spectra - float(refinement_loss(given, 2 * x, NO_SPECTRUM))

    # The floor, 40 dB below the mean, hides next to nothing of noise; one far above it all but everything.
    assert part(1e-4) == pytest.approx(0.5 * math.log(2), rel=0.01)
    assert part(100.0) == pytest.approx(0.5 * math.log(104 / 101) / 2, rel=0.1)


def test_examples_are_computed_once_and_the_same_again(config: RefinementConfig) -> None:
    examples = training_examples(config)
    first = examples.example(1)
    assert first.shape == (5, 1024)
    files = sorted((Path(config.run_dir) / "examples/train").iterdir())
    assert [file.name for file in files] == ["000001.npy"]
    changed = files[0].stat().st_mtime_ns
    assert torch.equal(training_examples(config).example(1), first)
    assert files[0].stat().st_mtime_ns == changed
    files[0].unlink()
    assert torch.equal(training_examples(config).example(1), first)
    assert not torch.equal(examples.example(2), first)


def test_items_are_stretches_of_examples(config: RefinementConfig) -> None:
    examples = training_examples(config)
    kept = [examples.example(number) for number in range(3)]
    signs = set()
    for item in range(12):
        stretch = examples[5, item, 512]
        assert torch.equal(examples[5, item, 512], stretch)
        places = [
            (number, begin, turned)
            for number, parts in enumerate(kept)
            for turned in (False, True)
            for begin in range(513)
            if torch.equal((mirrored(parts) if turned else parts)[:, begin : begin + 512], stretch)
        ]
        assert len(places) == 1
        signs.add(places[0][2])
    assert signs == {False, True}


@pytest.mark.parametrize("damage", [b"\x93NUMPY", b""])
def test_a_damaged_example_is_named(config: RefinementConfig, damage: bytes) -> None:
    path = Path(config.run_dir) / "examples/train/000000.npy"
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(NldiffError, match=r"000000\.npy is damaged"):
        training_examples(config).example(0)


def test_examples_of_another_configuration_are_refused(config: RefinementConfig) -> None:
    training_examples(config).example(0)
    with pytest.raises(NldiffError, match="of another configuration"):
        training_examples(replace(config, example_length=2048)).example(0)


def test_an_untrained_network_gains_nothing(config: RefinementConfig) -> None:
    network = make_refinement_network(**TINY_REFINEMENT)
    loss, gain, *by_distortion = validate(network, validation_examples(config), CPU, NO_SPECTRUM)
    assert loss == pytest.approx(0, abs=1e-6)
    assert [gain, *by_distortion] == pytest.approx([0, 0, 0], abs=1e-4)


def test_a_run_learns_resumes_exactly_and_its_file_loads(config: RefinementConfig, tmp_path: Path) -> None:
    path = train_refinement(config)
    shorter = replace(config, run_dir=str(tmp_path / "again"), examples_dir=str(Path(config.run_dir) / "examples"))
    train_refinement(replace(shorter, steps=2))
    train_refinement(shorter, resume=True)
    assert losses(shorter.run_dir) == losses(config.run_dir)
    assert (tmp_path / "again/validation.csv").read_text() == (Path(config.run_dir) / "validation.csv").read_text()
    assert list(rows(Path(config.run_dir) / "validation.csv")[0]) == [
        "step", "loss", "si_sdr_gain", "hard_clip:sdr=3", "half_wave",
    ]  # fmt: skip
    refiner = load_refiner(path, CPU)
    assert (refiner.sample_rate, refiner.windows, refiner.trust) == (8000, (128, 256), 0.5)


@pytest.mark.parametrize("trust", [-0.1, 1.5, float("nan")])
def test_a_share_of_the_correction_is_a_share(config: RefinementConfig, trust: float) -> None:
    with pytest.raises(NldiffError, match=r"^trust="):
        train_refinement(replace(config, trust=trust))


def test_more_steps_lower_the_loss(config: RefinementConfig) -> None:
    longer = replace(config, steps=30, learning_rate=0.02, val_every=30, checkpoint_every=30, ema_decay=0.9, ema_ramp=1)
    train_refinement(longer)
    found = losses(longer.run_dir)
    assert np.mean(found[-10:]) < np.mean(found[:10]) - 0.01


def test_the_command_trains_what_the_file_says(config: RefinementConfig, tmp_path: Path) -> None:
    path = write_yaml(config, tmp_path / "refinement.yaml")
    assert main(["train", "--config", str(path), "--quiet"]) == 0
    assert (Path(config.run_dir) / "refinement.safetensors").is_file()


def test_the_command_names_what_it_cannot_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("trains: dogs\n")
    assert main(["train", "--config", str(path), "--quiet"]) == 1
    assert "trains: dogs: prior or refinement expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_distortions": []}, "at least one of each expected"),
        ({"distortions": []}, "at least one of each expected"),
        ({"examples": 0}, "examples=0"),
        ({"segment_lengths": [1025], "samples_per_step": 1025}, "at most example_length=1024 expected"),
        ({"distortions": [{"name": "echo"}]}, "echo"),
    ],
)
def test_settings_that_do_not_fit(config: RefinementConfig, changes: dict[str, object], message: str) -> None:
    with pytest.raises(NldiffError, match=message):
        train_refinement(replace(config, **changes))  # type: ignore[arg-type]
