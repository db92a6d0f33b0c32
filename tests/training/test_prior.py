import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from training_runs import ROOT, kill_a_run, losses, rows, run_two_processes, write_yaml

from nldiff.cli import main
from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.priors.edm import EDMDenoiser
from nldiff.priors.saved import load_prior
from nldiff.training.data import Augmentation, Crops
from nldiff.training.loop import StepReport, learning_rate, segment_length
from nldiff.training.prior import TrainingConfig, item_noise, train, validate

CPU = torch.device("cpu")


@pytest.fixture
def config(guitar_folder: Path, tmp_path: Path, tiny_network: dict[str, Any]) -> TrainingConfig:
    """A run of a few milliseconds a step: two crops of 960 samples, or four of 480."""
    return TrainingConfig(
        run_dir=str(tmp_path / "run"),
        train_data=str(guitar_folder),
        val_data=str(guitar_folder),
        sample_rate=8000,
        network=tiny_network,
        augmentation=Augmentation(level_db=3.0, semitones=1.0, eq_db=1.0, polarity=True),
        noise_levels={"name": "lognormal", "median": 0.05, "sigma_min": 0.001},
        samples_per_step=1920,
        segment_lengths=[960, 480],
        steps=4,
        learning_rate=0.01,
        betas=(0.9, 0.99),
        ema_ramp=5,
        precision="float32",
        val_every=3,
        val_items=2,
        val_length=960,
        val_sigmas=[0.01, 0.1, 1.0],
        checkpoint_every=2,
    )


def checkpoint(config: TrainingConfig) -> dict[str, Any]:
    return torch.load(Path(config.run_dir) / "checkpoint.pt", weights_only=True)


def test_a_short_run_learns(config: TrainingConfig) -> None:
    config = replace(config, steps=60, val_every=30, decay_steps=20)
    prior = load_prior(train(config), dtype=torch.float32)
    values = losses(config.run_dir)
    # 1 is the loss of scaling the input, where every run begins.
    assert values[0] == pytest.approx(1.0, abs=0.1)
    assert np.mean(values[-10:]) < 0.85

    by_level = rows(Path(config.run_dir) / "validation.csv")
    assert [row["step"] for row in by_level] == ["30", "60"]
    assert list(by_level[0]) == ["step", "sigma_0.01", "sigma_0.1", "sigma_1"]
    assert float(by_level[1]["sigma_0.1"]) < 0.85

    # The prior is the averaged network: it has the logged validation loss, up to its rounding to bfloat16.
    crops = Crops(config.val_data, 8000, config.sigma_data, Augmentation())
    for value, logged in zip(validate(prior.denoiser, crops, config, CPU), list(by_level[1].values())[1:], strict=True):
        assert value == pytest.approx(float(logged), rel=0.02)


def test_the_prior_holds_what_its_use_needs(config: TrainingConfig) -> None:
    settings: dict[str, dict[str, Any]] = {"sampler": {"steps": 30, "zeta": 0.5}, "cost": {"n_fft": 512}}
    prior = load_prior(train(replace(config, steps=2, settings=settings, description="plucked strings")))
    assert (prior.sample_rate, prior.sigma_data, prior.sigma_min) == (8000, 0.06, 0.001)
    assert prior.config["settings"] == settings
    assert prior.config["training"]["description"] == "plucked strings"
    assert prior.config["training"]["steps"] == 2


@pytest.mark.parametrize(("name", "lowest"), [("karras", 1e-5), ("lognormal", 2e-4)])
def test_lowest_level_is_that_of_the_distribution(config: TrainingConfig, name: str, lowest: float) -> None:
    assert load_prior(train(replace(config, steps=1, noise_levels={"name": name}))).sigma_min == lowest


def test_a_killed_run_resumes_exactly(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, steps=40, val_every=20, checkpoint_every=7, run_dir=str(tmp_path / "whole"))
    train(config)
    whole = Path(config.run_dir)

    killed = tmp_path / "killed"
    settings = write_yaml(replace(config, run_dir=str(killed)), tmp_path / "settings.yaml")
    moment = kill_a_run("train_prior.py", settings, killed, 8, 25)  # any after the first checkpoint must do
    assert 7 <= torch.load(killed / "checkpoint.pt", weights_only=True)["step"] < 40, moment

    assert main(["train", "--config", str(settings), "--quiet", "--resume"]) == 0
    # The same operations; reductions may differ in the last bit with the alignment of memory.
    assert losses(killed) == pytest.approx(losses(whole), rel=1e-5), moment
    assert [row["step"] for row in rows(killed / "loss.csv")] == [str(step) for step in range(1, 41)]
    for one, other in zip(rows(killed / "validation.csv"), rows(whole / "validation.csv"), strict=True):
        assert list(map(float, one.values())) == pytest.approx(list(map(float, other.values())), rel=1e-4)
    expected, resumed = load_file(whole / "prior.safetensors"), load_file(killed / "prior.safetensors")
    assert expected.keys() == resumed.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-2, atol=1e-4, msg=name)
    seconds = [float(row["seconds"]) for row in rows(killed / "loss.csv")]
    assert seconds == sorted(seconds)


def test_two_processes_equal_one(config: TrainingConfig, tmp_path: Path) -> None:
    config = replace(config, steps=5, learning_rate=1e-3)
    train(config)
    shared = replace(config, run_dir=str(tmp_path / "shared"))
    settings = write_yaml(shared, tmp_path / "settings.yaml")
    run_two_processes("train_prior.py", settings)
    # The same numbers summed in another order: float32 rounding, a few 1e-7, which Adam's first steps enlarge.
    assert losses(shared.run_dir) == pytest.approx(losses(config.run_dir), rel=1e-3)
    one, two = checkpoint(config), checkpoint(shared)
    for part in ("network", "average"):
        for name, tensor in one[part].items():
            torch.testing.assert_close(two[part][name], tensor, rtol=1e-3, atol=1e-4, msg=f"{part}.{name}")


def test_moving_average(config: TrainingConfig) -> None:
    torch.manual_seed(config.seed)
    average = {name: p.detach().clone() for name, p in make_network(**config.network).named_parameters()}
    # n / (n + 2) is 1/3, 1/2, 3/5, 2/3 and then bounded.
    for step, decay in enumerate([1 / 3, 1 / 2, 0.58, 0.58], start=1):
        train(replace(config, steps=step, ema_ramp=2, ema_decay=0.58), resume=step > 1)
        state = checkpoint(config)
        for name, tensor in average.items():
            tensor.mul_(decay).add_(state["network"][name], alpha=1 - decay)
            torch.testing.assert_close(state["average"][name], tensor)
        assert not torch.equal(state["average"]["output_gain"], state["network"]["output_gain"])


def test_learning_rate_by_hand(config: TrainingConfig) -> None:
    config = replace(config, learning_rate=2.0, warmup_steps=4, decay_steps=5, steps=20)
    rates = [learning_rate(config, step) for step in range(20)]
    assert rates == pytest.approx([0.5, 1.0, 1.5, *[2.0] * 13, 1.6, 1.2, 0.8, 0.4])
    constant = replace(config, warmup_steps=0, decay_steps=0)
    assert [learning_rate(constant, step) for step in (0, 10, 19)] == [2.0] * 3


def test_learning_rate_reaches_the_optimiser(config: TrainingConfig) -> None:
    config = replace(config, learning_rate=0.01, warmup_steps=2, decay_steps=2, steps=4)
    train(config)
    logged = [float(row["learning_rate"]) for row in rows(Path(config.run_dir) / "loss.csv")]
    assert logged == pytest.approx([0.005, 0.01, 0.01, 0.005])
    assert checkpoint(config)["optimiser"]["param_groups"][0]["lr"] == pytest.approx(0.005)


def test_segment_lengths_are_drawn_as_listed(config: TrainingConfig) -> None:
    config = replace(config, segment_lengths=[480, 480, 960])
    lengths = [segment_length(config, step) for step in range(500)]
    assert set(lengths) == {480, 960}
    assert np.mean(np.array(lengths) == 480) == pytest.approx(2 / 3, abs=0.09)
    assert lengths != [segment_length(replace(config, seed=1), step) for step in range(500)]


def test_noise_is_a_function_of_seed_step_and_item(config: TrainingConfig) -> None:
    sigma, noise = item_noise(config, 3, 2, 5000)
    again = item_noise(config, 3, 2, 5000)
    assert torch.equal(again[0], sigma) and torch.equal(again[1], noise)
    assert sigma.shape == () and noise.shape == (5000,)
    assert float(noise.square().mean()) == pytest.approx(1, abs=0.1)
    for other in (item_noise(config, 4, 2, 5000), item_noise(config, 3, 3, 5000)):
        assert other[0] != sigma and not torch.equal(other[1], noise)
    assert item_noise(replace(config, seed=1), 3, 2, 5000)[0] != sigma
    levels = np.array([float(item_noise(config, step, 0, 1)[0]) for step in range(400)])
    assert levels.min() >= 0.00099 and levels.max() <= 3.01
    # Half of them below the median, but for the few that the bounds cut off.
    assert np.mean(levels < 0.05) == pytest.approx(0.5, abs=0.1)


def test_segment_length_says_nothing_about_the_crops(config: TrainingConfig) -> None:
    # Seeds of fewer than four words are filled up with zeros: [s, n] and [s, n, 0] would be the same generator.
    config = replace(config, segment_lengths=list(range(1, 1001)))
    crops = [np.random.default_rng([config.seed, step, 0]).choice(config.segment_lengths) for step in range(100)]
    assert np.mean([segment_length(config, step) == crops[step] for step in range(100)]) < 0.1


class Zero(nn.Module):
    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_validation_of_a_zero_network_is_one(config: TrainingConfig) -> None:
    config = replace(config, val_items=12, val_length=4000)
    crops = Crops(config.val_data, 8000, config.sigma_data, Augmentation())
    denoiser = EDMDenoiser(Zero(), config.sigma_data)
    first = validate(denoiser, crops, config, CPU)
    assert first == pytest.approx([1.0] * 3, abs=0.05)
    assert validate(denoiser, crops, config, CPU) == first


def test_worker_processes_change_nothing(config: TrainingConfig, tmp_path: Path) -> None:
    train(config)
    other = replace(config, workers=1, run_dir=str(tmp_path / "workers"))
    train(other)
    assert losses(other.run_dir) == losses(config.run_dir)


def test_bfloat16_with_checkpointing_is_close(config: TrainingConfig, tmp_path: Path) -> None:
    train(config)
    network = {**config.network, "gradient_checkpointing": True}
    other = replace(config, precision="bfloat16", network=network, run_dir=str(tmp_path / "bfloat16"))
    train(other)
    assert losses(other.run_dir) == pytest.approx(losses(config.run_dir), rel=0.02)
    assert all(t.dtype == torch.float32 for t in checkpoint(other)["network"].values())


def test_loss_cap_and_gradient_clip_bound_the_step(config: TrainingConfig, tmp_path: Path) -> None:
    capped = replace(config, steps=1, loss_cap=0.01, run_dir=str(tmp_path / "capped"))
    train(replace(config, steps=1))
    train(capped)
    free, bounded = (rows(Path(c.run_dir) / "loss.csv")[0] for c in (config, capped))
    # Every item is worth 0.01 instead of about 1; the log keeps the loss as it was.
    assert bounded["loss"] == free["loss"]
    assert float(bounded["gradient_norm"]) == pytest.approx(0.01 * float(free["gradient_norm"]), rel=0.3)


def test_callback(config: TrainingConfig) -> None:
    reports: list[StepReport] = []
    train(config, on_step=reports.append)
    assert [r.step for r in reports] == [1, 2, 3, 4]
    assert [r.loss for r in reports] == pytest.approx(losses(config.run_dir), rel=1e-5)


def test_a_run_is_not_overwritten(config: TrainingConfig) -> None:
    train(config)
    before = (Path(config.run_dir) / "loss.csv").read_bytes()
    with pytest.raises(NldiffError, match=rf"^{config.run_dir} already holds a run"):
        train(config)
    assert (Path(config.run_dir) / "loss.csv").read_bytes() == before


def test_resume_of_a_finished_run_changes_nothing(config: TrainingConfig) -> None:
    prior = train(config)
    before = prior.read_bytes()
    assert train(config, resume=True) == prior
    assert prior.read_bytes() == before
    assert len(losses(config.run_dir)) == 4


def test_nothing_to_resume(config: TrainingConfig) -> None:
    with pytest.raises(NldiffError, match=r"nothing to resume: .*checkpoint\.pt does not exist"):
        train(config, resume=True)


def test_checkpoint_of_another_network(config: TrainingConfig) -> None:
    train(config)
    with pytest.raises(NldiffError, match=r"checkpoint\.pt is damaged or belongs to another configuration"):
        train(replace(config, network={**config.network, "embedding": 8}), resume=True)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 or half a one"], ids=["0", "text", "zip"])
def test_damaged_checkpoint(config: TrainingConfig, content: bytes) -> None:
    train(config)
    (Path(config.run_dir) / "checkpoint.pt").write_bytes(content)
    with pytest.raises(NldiffError, match=r"checkpoint\.pt is damaged") as caught:
        train(config, resume=True)
    assert "\n" not in str(caught.value)


def test_loss_that_is_not_finite(config: TrainingConfig) -> None:
    with pytest.raises(NldiffError, match=r"^the loss is (nan|inf) at step \d+: lower the learning rate"):
        train(replace(config, learning_rate=1e30, steps=10))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_data": ""}, "^train_data is not set"),
        ({"val_data": ""}, "^val_data is not set"),
        ({"val_data": "/nowhere/at/all"}, "^/nowhere/at/all does not exist"),
        ({"network": {}}, "^unknown network ''"),
        ({"network": {"name": "cqtunet", "chanels": [8]}}, "^network 'cqtunet': .*chanels"),
        ({"noise_levels": {}}, r"^noise_levels\.name 'None' \(known: karras, lognormal\)"),
        ({"noise_levels": {"name": "uniform"}}, r"^noise_levels\.name 'uniform'"),
        ({"noise_levels": {"name": "karras", "sigma_low": 1}}, "^noise_levels: .*sigma_low"),
        ({"segment_lengths": [7680]}, "^samples_per_step=1920 makes 0 items of 7680 samples"),
        ({"segment_lengths": []}, r"^segment_lengths=\[\]"),
        ({"segment_lengths": [0]}, r"^segment_lengths=\[0\]"),
        ({"precision": "float16"}, "^precision 'float16'"),
    ],
    ids=str,
)
def test_contradictory_settings(config: TrainingConfig, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason) as caught:
        train(replace(config, **changes))
    assert "\n" not in str(caught.value)
    assert not Path(config.run_dir).exists()


def test_unwritable_run_dir(config: TrainingConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(NldiffError, match="file"):
        train(replace(config, run_dir=str(tmp_path / "file" / "run")))


def test_wandb_is_not_installed(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(NldiffError, match=r'^wandb=true needs wandb: pip install "nldiff\[wandb\]"$'):
        train(replace(config, wandb=True))


def test_wandb_gets_what_the_logs_get(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, dict[str, float]]] = []

    class Run:
        finished = False

        def log(self, values: dict[str, float], step: int) -> None:
            logged.append((step, values))

        def finish(self) -> None:
            Run.finished = True

    fake = ModuleType("wandb")
    fake.init = lambda **settings: Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    train(replace(config, wandb=True))
    assert Run.finished
    values = [entry["loss"] for _, entry in logged if "loss" in entry]
    assert values == pytest.approx(losses(config.run_dir), rel=1e-5)
    validation = {step: entry for step, entry in logged if "val/0.1" in entry}
    for row in rows(Path(config.run_dir) / "validation.csv"):
        assert validation[int(row["step"])]["val/0.1"] == pytest.approx(float(row["sigma_0.1"]), rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "reason"), [(["stpes=5"], "stpes"), ([], "NLDIFF_DATA")], ids=["unknown key", "no data variable"]
)
def test_command_line_mistakes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overrides: list[str], reason: str
) -> None:
    monkeypatch.delenv("NLDIFF_DATA", raising=False)
    config_file = ROOT / "nldiff" / "configs" / "train" / "guitar_small.yaml"
    assert main(["train", "--config", str(config_file), "--quiet", *overrides]) != 0
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""
