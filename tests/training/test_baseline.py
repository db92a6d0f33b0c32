import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import ROOT, kill_a_run, losses, rows, run_two_processes, write_yaml

from nldiff.baselines.networks import make_network
from nldiff.baselines.saved import apply_network, load_baseline
from nldiff.cli import main
from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.operators import Chain, Distortion, input_sdr, parse_operator
from nldiff.operators.distortions import sox_overdrive
from nldiff.training.baseline import (
    Pairs,
    SupervisedConfig,
    draw_recipe,
    negative_sdr,
    plateau_rate,
    train_supervised,
    validate,
    validation_pairs,
)
from nldiff.training.data import Augmentation, Crops

CPU = torch.device("cpu")
CONFIGS = sorted((ROOT / "nldiff" / "configs" / "baselines").glob("*.yaml"))
TINY = {"name": "demucs", "hidden": 6, "depth": 2, "lstm_layers": 1, "resample": 1, "residual": True}
DISTORTIONS: list[dict[str, Any]] = [
    {"name": "hard_clip", "sdr": [0.1, 10]},
    {"name": "soft_clip_r", "sdr": [1, 5], "hardness": [0, 1]},
    {"name": "overdrive", "gain_db": [20, 50], "colour": 20},
]


@pytest.fixture
def config(guitar_folder: Path, tmp_path: Path) -> SupervisedConfig:
    """A run of a few milliseconds a step: two crops of 960 samples."""
    return SupervisedConfig(
        run_dir=str(tmp_path / "run"),
        train_data=str(guitar_folder),
        val_data=str(guitar_folder),
        sample_rate=8000,
        network=TINY,
        distortions=DISTORTIONS,
        val_distortions=["hard_clip:sdr=3", "overdrive:gain_db=30"],
        samples_per_step=1920,
        segment_lengths=[960],
        steps=4,
        warmup_steps=0,
        decay_steps=0,
        precision="float32",
        val_every=2,
        val_items=2,
        val_length=960,
        checkpoint_every=2,
        workers=0,
    )


def validations(config: SupervisedConfig) -> list[dict[str, float]]:
    table = rows(Path(config.run_dir) / "validation.csv")
    return [{key: float(value) for key, value in row.items()} for row in table]


def rates(config: SupervisedConfig) -> list[float]:
    return [float(row["learning_rate"]) for row in rows(Path(config.run_dir) / "loss.csv")]


def crops(config: SupervisedConfig) -> Crops:
    return Crops(config.train_data, config.sample_rate, config.level, config.augmentation, config.seed)


def pairs_of(config: SupervisedConfig, **entry: Any) -> Pairs:
    return Pairs(crops(config), [entry])


# ------------------------------------------------------------ what is drawn


def test_parameters_are_drawn_from_their_ranges() -> None:
    random = np.random.default_rng(0)
    drawn = [draw_recipe(DISTORTIONS, random) for _ in range(3000)]
    by_name = {
        name: [r.parts[0].params for r in drawn if r.family == name]
        for name in ("hard_clip", "soft_clip_r", "overdrive")
    }
    assert [len(found) / 3000 for found in by_name.values()] == pytest.approx([1 / 3] * 3, abs=0.04)
    ranges = {
        ("hard_clip", "sdr"): (0.1, 10),
        ("soft_clip_r", "sdr"): (1, 5),
        ("soft_clip_r", "hardness"): (0, 1),
        ("overdrive", "gain_db"): (20, 50),
    }
    for (name, key), (low, high) in ranges.items():
        values = np.array([params[key] for params in by_name[name]])
        assert low <= values.min() and values.max() <= high
        # Moments of the uniform distribution.
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.04 * (high - low))
        assert values.std() == pytest.approx((high - low) / math.sqrt(12), rel=0.06)
    assert {params["colour"] for params in by_name["overdrive"]} == {20.0}
    assert [set(found[0]) for found in by_name.values()] == [{"sdr"}, {"sdr", "hardness"}, {"gain_db", "colour"}]


def test_order_of_the_parameters_says_nothing() -> None:
    entry = {"name": "soft_clip_r", "sdr": [1, 5], "hardness": [0, 1]}
    turned = dict(reversed(entry.items()))
    drawn = [draw_recipe([mapping], np.random.default_rng(0)).parts[0].params for mapping in (entry, turned)]
    assert drawn[0] == drawn[1]


def test_pair_is_a_function_of_seed_step_and_item(config: SupervisedConfig) -> None:
    pairs, again = (Pairs(crops(config), DISTORTIONS) for _ in range(2))
    keys = [(step, item, 960) for step in range(3) for item in range(3)]
    found = {key: pairs[key] for key in keys}
    for key in reversed(keys):
        assert torch.equal(again[key], found[key])
    assert len({round(input_sdr(*pair), 3) for pair in found.values()}) == 9
    sdrs = [input_sdr(*pairs_of(c, name="hard_clip", sdr=[0, 9])[0, 0, 960]) for c in (config, replace(config, seed=1))]
    assert abs(sdrs[0] - sdrs[1]) > 0.01


def test_clean_half_is_the_crop(config: SupervisedConfig) -> None:
    x, y = pairs_of(config, name="hard_clip", sdr=[2, 4])[5, 1, 960]
    assert torch.equal(x, crops(config)[5, 1, 960])
    assert 2 <= input_sdr(x, y) <= 4
    assert float(y.abs().max()) < float(x.abs().max())
    assert torch.equal(x.clamp(-y.abs().max(), y.abs().max()), y)


def test_soft_clipping_follows_the_formula(config: SupervisedConfig) -> None:
    x, y = pairs_of(config, name="soft_clip_r", sdr=3, hardness=0)[0, 0, 960]
    assert input_sdr(x, y) == pytest.approx(3, abs=2e-3)
    # u tanh(x / u) with the limit u that one sample gives determines all others.
    n = int(x.abs().argmax())
    limits = torch.linspace(float(y.abs().max()), 10 * float(x.abs().max()), 20_000, dtype=torch.float64)
    limit = limits[(limits * torch.tanh(x[n] / limits) - y[n]).abs().argmin()]
    torch.testing.assert_close(limit * torch.tanh(x.double() / limit), y.double(), atol=1e-4, rtol=1e-3)


def test_overdrive_is_that_of_sox_with_its_filter(config: SupervisedConfig) -> None:
    x, y = pairs_of(config, name="overdrive", gain_db=30, colour=40)[0, 0, 960]
    torch.testing.assert_close(y, sox_overdrive(x, 30, 40, 0.995))
    wet = pairs_of(config, name="overdrive", gain_db=30, colour=40, mix=0.25)[0, 0, 960][1]
    torch.testing.assert_close(wet, 0.75 * x + 0.25 * y)


def test_amplified_clipping_is_not_scaled_back(config: SupervisedConfig) -> None:
    config = replace(config, augmentation=Augmentation())
    x, y = pairs_of(config, name="amplified_clip", gain_db=40)[0, 0, 960]
    assert float(x.square().mean().sqrt()) == pytest.approx(0.06, rel=1e-4)
    torch.testing.assert_close(y, (100 * x).clamp(-1, 1))


CHAIN = "hard_clip:sdr=3 > overdrive:gain_db=20,colour=0; mix=0.5"


def test_a_chain_may_be_drawn(config: SupervisedConfig) -> None:
    x, y = pairs_of(config, name=CHAIN)[0, 0, 960]
    truth = parse_operator(CHAIN).build(x)
    assert isinstance(truth, Chain)
    assert torch.equal(y, truth(x))
    assert input_sdr(x, truth.operators[0](x)) == pytest.approx(3, abs=2e-3)


def test_parameters_beside_a_chain_are_those_of_its_last_distortion() -> None:
    entry = {"name": "hard_clip:sdr=3 > overdrive", "gain_db": [20, 50], "colour": 20}
    random = np.random.default_rng(0)
    drawn = [draw_recipe([entry], random) for _ in range(500)]
    assert all(recipe.parts[0] == ("hard_clip", {"sdr": 3.0}) for recipe in drawn)
    gains = np.array([recipe.parts[1].params["gain_db"] for recipe in drawn])
    assert (gains.mean(), gains.std()) == pytest.approx((35, 30 / math.sqrt(12)), rel=0.06)
    assert {recipe.parts[1].params["colour"] for recipe in drawn} == {20.0}


def test_a_training_on_chains_and_effects_has_columns_for_them(config: SupervisedConfig) -> None:
    config = replace(config, distortions=[{"name": CHAIN}], val_distortions=[CHAIN, "overdrive:gain_db=35,colour=20"])
    train_supervised(config)
    assert {CHAIN, "overdrive:gain_db=35,colour=20"} <= set(validations(config)[0])
    assert load_baseline(Path(config.run_dir) / "baseline.safetensors").config["task"] == ["hard_clip > overdrive"]


# ------------------------------------------------------------ loss and schedule


def test_loss_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0], [3.0, 4.0], [1.0, 0.0]])
    estimate = torch.tensor([[3.0, 3.0], [0.0, 0.0], [11.0, 0.0]])
    # 25 / 1, 25 / 25 and 1 / 100.
    expected = [-10 * math.log10(25), 0.0, 20.0]
    assert negative_sdr(x, estimate).tolist() == pytest.approx(expected, abs=1e-4)


def test_loss_of_a_perfect_estimate_is_finite() -> None:
    x = torch.full((1, 100), 0.06)
    estimate = x.clone().requires_grad_()
    loss = negative_sdr(x, estimate)
    loss.sum().backward()
    # 0.36 of energy above 1e-8.
    assert loss.item() == pytest.approx(-10 * math.log10(0.36e8), abs=0.01)
    assert estimate.grad is not None and bool(estimate.grad.isfinite().all())


@pytest.mark.parametrize(
    ("losses", "patience", "stop_patience", "rate"),
    [
        ([], 2, 3, 1.0),
        ([5, 4, 3, 2, 1], 1, 1, 1.0),
        ([5, 6], 2, 0, 1.0),
        ([5, 6, 6], 2, 0, 0.1),
        ([5, 6, 4, 6], 2, 0, 1.0),
        ([5, 5, 5], 2, 0, 0.1),  # as good as the best is no improvement
        ([5, 6, 5.5, 5.2, 5.1], 2, 0, 0.01),  # neither is better than the last one
        ([5, 6, 6, 6], 2, 0, 0.1),
        ([5, 6, 6, 4, 6], 2, 0, 0.1),  # what was reduced stays reduced
        ([5, 6, 6, 4, 6, 6], 2, 0, 0.01),
        ([5, 6, 6, 6, 6, 6, 6], 0, 0, 1.0),
        ([5, 6, 6, 6], 2, 4, 0.1),
        ([5, 6, 6, 6, 6], 2, 4, 0.0),
        ([5, 6, 6, 4, 6, 6, 6], 2, 4, 0.01),
        ([5, 6, 6, 6, 6, 1], 2, 4, 0.0),  # it ended before
    ],
    ids=str,
)
def test_plateau_by_hand(losses: list[float], patience: int, stop_patience: int, rate: float) -> None:
    assert plateau_rate(losses, patience, stop_patience) == pytest.approx(rate)


def test_plateau_lowers_the_rate_and_ends_the_run(config: SupervisedConfig) -> None:
    # Steps too small to change a float32 weight: after the first, no validation improves.
    stuck = replace(config, learning_rate=1e-30, val_every=1, checkpoint_every=2, patience=2, stop_patience=5, steps=3)
    train_supervised(stuck)
    train_supervised(replace(stuck, steps=20), resume=True)
    assert rates(stuck) == pytest.approx([1e-30] * 3 + [1e-31] * 2 + [1e-32], rel=1e-6, abs=0)
    assert len({row["loss"] for row in validations(stuck)}) == 1
    before = (Path(stuck.run_dir) / "loss.csv").read_bytes()
    train_supervised(replace(stuck, steps=20), resume=True)
    assert (Path(stuck.run_dir) / "loss.csv").read_bytes() == before


# ------------------------------------------------------------ runs


def test_a_short_run_improves_on_its_input(config: SupervisedConfig) -> None:
    config = replace(
        config,
        distortions=[{"name": "hard_clip", "sdr": [2, 6]}],
        val_distortions=["hard_clip:sdr=2", "hard_clip:sdr=6"],
        samples_per_step=8 * 960,
        steps=120,
        learning_rate=0.01,
        decay_steps=60,
        val_every=20,
        val_items=4,
    )
    baseline = load_baseline(train_supervised(config))
    table = validations(config)
    assert list(table[0]) == ["step", "loss", "si_sdr", "hard_clip:sdr=2", "hard_clip:sdr=6"]
    assert [row["step"] for row in table] == [20, 40, 60, 80, 100, 120]
    best = min(table, key=lambda row: row["loss"])
    assert best["loss"] == pytest.approx(-(best["hard_clip:sdr=2"] + best["hard_clip:sdr=6"]) / 2, abs=1e-4)
    assert best["hard_clip:sdr=2"] > 4 and best["hard_clip:sdr=6"] > 7
    assert np.mean(losses(config.run_dir)[-20:]) < -6

    # The file holds the network of the best validation, up to the rounding of its weights to bfloat16.
    fixed = validation_pairs(config, [parse_operator(text) for text in config.val_distortions])
    for value, logged in zip(validate(baseline.network, fixed, CPU), list(best.values())[1:], strict=True):
        assert value == pytest.approx(logged, abs=0.1)


def test_worse_networks_are_not_kept(config: SupervisedConfig) -> None:
    path = train_supervised(replace(config, steps=2))
    before = path.read_bytes()
    train_supervised(replace(config, steps=4, learning_rate=3.0), resume=True)
    first, second = validations(config)
    assert second["loss"] > first["loss"]
    assert path.read_bytes() == before


def test_the_file_holds_what_its_use_needs(config: SupervisedConfig) -> None:
    baseline = load_baseline(train_supervised(replace(config, steps=2, description="plucked strings")))
    assert (baseline.name, baseline.sample_rate) == ("baseline", 8000)
    assert baseline.config["level"] == 0.06
    assert baseline.config["task"] == ["hard_clip", "overdrive", "soft_clip_r"]
    assert baseline.config["network"] == TINY
    assert baseline.config["training"]["distortions"] == DISTORTIONS
    assert baseline.config["training"]["description"] == "plucked strings"
    assert baseline.config["training"]["steps"] == 2


@pytest.mark.parametrize("input_level", [None, 0.1])
def test_levels_that_a_network_is_trained_at(
    config: SupervisedConfig, monkeypatch: pytest.MonkeyPatch, input_level: float | None
) -> None:
    levels: list[float] = []

    def spy(**arguments: Any) -> torch.nn.Module:
        network = make_network(**arguments)
        network.register_forward_pre_hook(lambda _, inputs: levels.extend(inputs[0].square().mean(dim=1).tolist()))
        return network

    monkeypatch.setattr("nldiff.training.baseline.make_network", spy)
    augmentation = Augmentation(level_db=12.0)
    config = replace(config, augmentation=augmentation, input_level=input_level)
    path = train_supervised(config)
    assert load_baseline(path).config["input_level"] == input_level
    assert len(levels) == 4 * 2 + 2 * 2 * 2  # training items; validations of two distortions of two crops
    if input_level is None:
        assert levels == pytest.approx([1.0] * len(levels), rel=1e-4)
    else:
        data = Pairs(crops(config), DISTORTIONS)
        power = [data[step, item, 960][1].square().mean().item() for step in range(4) for item in range(2)]
        seen = levels[:4] + levels[8:12]  # two steps, a validation, two steps, a validation
        assert seen == pytest.approx([value / input_level**2 for value in power], rel=1e-4)


def test_weights_are_kept_as_they_are_in_float32(config: SupervisedConfig) -> None:
    saved = load_file(train_supervised(replace(config, steps=2, weights_dtype="float32")))
    trained = torch.load(Path(config.run_dir) / "checkpoint.pt", weights_only=True)["network"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in trained.items())


def test_validation_of_the_identity_is_the_input_sdr(config: SupervisedConfig) -> None:
    texts = ["hard_clip:sdr=3", "hard_clip:threshold=0.05", "soft_clip:gain=30"]
    fixed = validation_pairs(replace(config, val_items=3), [parse_operator(text) for text in texts])
    assert [pairs.shape for pairs in fixed] == [(3, 2, 960)] * 3
    loss, _, *by_task = validate(torch.nn.Identity(), fixed, CPU)
    clean = [Crops(config.val_data, 8000, 0.06, Augmentation())[0, item, 960] for item in range(3)]
    expected = [3.0]
    for distortion in (Distortion("hard_clip", {"threshold": 0.05}), Distortion("soft_clip", {"gain": 30})):
        expected.append(float(np.mean([input_sdr(x, distortion(x)) for x in clean])))
    assert by_task == pytest.approx(expected, abs=2e-3)
    assert loss == pytest.approx(-np.mean(expected), abs=2e-3)


def test_a_killed_run_resumes_exactly(config: SupervisedConfig, tmp_path: Path) -> None:
    # At this learning rate some validations are worse than the best one, so the patience counts.
    changes: dict[str, Any] = {"steps": 40, "val_every": 2, "checkpoint_every": 7, "patience": 2, "learning_rate": 0.02}
    config = replace(config, **changes, run_dir=str(tmp_path / "whole"))
    path = train_supervised(config)
    assert len(set(rates(config))) > 1
    killed = replace(config, run_dir=str(tmp_path / "killed"))
    settings = write_yaml(killed, tmp_path / "settings.yaml")
    moment = kill_a_run("train_baseline.py", settings, Path(killed.run_dir), 8, 25)
    assert 7 <= torch.load(Path(killed.run_dir) / "checkpoint.pt", weights_only=True)["step"] < 40, moment

    assert main(["train-baseline", "--config", str(settings), "--quiet", "--resume"]) == 0
    # The same operations; reductions may differ in the last bit with the alignment of memory.
    assert losses(killed.run_dir) == pytest.approx(losses(config.run_dir), abs=1e-3), moment
    assert rates(killed) == rates(config)
    for one, other in zip(validations(killed), validations(config), strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    expected, resumed = load_file(path), load_file(Path(killed.run_dir) / path.name)
    for name, tensor in expected.items():
        torch.testing.assert_close(resumed[name], tensor, rtol=1e-2, atol=1e-4, msg=name)


def test_two_processes_equal_one(config: SupervisedConfig, tmp_path: Path) -> None:
    # The second process does not validate: without the values of the first it would end after the third step.
    config = replace(config, steps=6, val_every=1, patience=1, stop_patience=2, learning_rate=0.01)
    config = replace(config, network={**TINY, "residual": False})  # improves with every step
    train_supervised(config)
    assert len(rates(config)) == 6
    shared = replace(config, run_dir=str(tmp_path / "shared"))
    run_two_processes("train_baseline.py", write_yaml(shared, tmp_path / "settings.yaml"))
    assert rates(shared) == rates(config)
    # The same numbers summed in another order, which Adam's first steps enlarge.
    assert losses(shared.run_dir) == pytest.approx(losses(config.run_dir), abs=0.01)
    for one, other in zip(validations(shared), validations(config), strict=True):
        assert one == pytest.approx(other, abs=0.01)


def test_worker_processes_change_nothing(config: SupervisedConfig, tmp_path: Path) -> None:
    train_supervised(config)
    other = replace(config, workers=1, run_dir=str(tmp_path / "workers"))
    train_supervised(other)
    assert losses(other.run_dir) == losses(config.run_dir)


def test_bfloat16_is_close(config: SupervisedConfig, tmp_path: Path) -> None:
    train_supervised(config)
    other = replace(config, precision="bfloat16", run_dir=str(tmp_path / "bfloat16"))
    train_supervised(other)
    assert losses(other.run_dir) == pytest.approx(losses(config.run_dir), abs=0.1)
    assert losses(other.run_dir) != losses(config.run_dir)
    state = torch.load(Path(other.run_dir) / "checkpoint.pt", weights_only=True)
    assert all(tensor.dtype == torch.float32 for tensor in state["network"].values())


# ------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_data": ""}, "^train_data is not set"),
        ({"val_data": "/nowhere/at/all"}, "^/nowhere/at/all does not exist"),
        ({"network": {}}, "^unknown network ''"),
        ({"network": {"name": "cqtunet"}}, r"^unknown network 'cqtunet' \(known: demucs, wave-unet, umx, crafx\)"),
        ({"network": {"name": "demucs", "hiden": 8}}, "^network 'demucs': .*hiden"),
        ({"distortions": []}, "^distortions and val_distortions: at least one of each expected"),
        ({"val_distortions": []}, "^distortions and val_distortions: at least one of each expected"),
        ({"distortions": [{"sdr": [1, 2]}]}, "unknown distortion 'None'"),
        ({"distortions": [{"name": "fuzz"}]}, "unknown distortion 'fuzz'"),
        ({"distortions": [{"name": "half_wave > fuzz"}]}, "unknown distortion 'fuzz'"),
        ({"distortions": [{"name": "hard_clip:sdr=3", "mix": 0.5}]}, "sdr=3:mix=0.5 is not a number"),
        ({"distortions": [{"name": "hard_clip", "level": [1, 2]}]}, "no parameter 'level'"),
        ({"distortions": [{"name": "hard_clip", "sdr": [10, 0.1]}]}, "^distortions: .*sdr.*: low is above high"),
        ({"distortions": [{"name": "hard_clip", "sdr": [1, 2, 3]}]}, r"a number or \[low, high\] expected"),
        ({"distortions": [{"name": "hard_clip", "sdr": "1..2"}]}, r"a number or \[low, high\] expected"),
        ({"distortions": [{"name": "soft_clip_r", "sdr": 3, "hardness": [0.5, 1.5]}]}, "hardness=1.5 is out of range"),
        ({"distortions": [{"name": "half_wave", "sdr": 3}]}, "cannot be calibrated to an input SDR"),
        ({"val_distortions": ["hard_clip:sdr=x"]}, "sdr=x is not a number"),
        ({"samples_per_step": 100}, "^samples_per_step=100 makes 0 items"),
        ({"precision": "float16"}, "^precision 'float16'"),
        ({"weights_dtype": "float16"}, "^weights_dtype 'float16': bfloat16 or float32 expected"),
        ({"input_level": 0.0}, "^input_level=0: a positive level or null expected"),
    ],
    ids=str,
)
def test_contradictory_settings(config: SupervisedConfig, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(NldiffError, match=reason) as caught:
        train_supervised(replace(config, **changes))
    assert "\n" not in str(caught.value)
    assert not Path(config.run_dir).exists()


def test_a_run_is_not_overwritten(config: SupervisedConfig) -> None:
    before = train_supervised(config).read_bytes()
    with pytest.raises(NldiffError, match=rf"^{config.run_dir} already holds a run"):
        train_supervised(config)
    assert (Path(config.run_dir) / "baseline.safetensors").read_bytes() == before


def test_loss_that_is_not_finite(config: SupervisedConfig) -> None:
    with pytest.raises(NldiffError, match=r"^the loss is (nan|inf) at step \d+: lower the learning rate"):
        train_supervised(replace(config, learning_rate=1e30, val_every=100, steps=10))


@pytest.mark.parametrize(
    ("overrides", "reason"), [(["stpes=5"], "stpes"), ([], "NLDIFF_DATA")], ids=["unknown key", "no data variable"]
)
def test_command_line_mistakes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], overrides: list[str], reason: str
) -> None:
    monkeypatch.delenv("NLDIFF_DATA", raising=False)
    config_file = ROOT / "nldiff" / "configs" / "baselines" / "demucs_hardclip.yaml"
    assert main(["train-baseline", "--config", str(config_file), "--quiet", *overrides]) != 0
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.err.count("\n") == 1 and captured.out == ""


def test_the_command_explains_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train-baseline", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: nldiff train-baseline") and "demucs_hardclip" in out


def test_the_command_prints_the_file(
    config: SupervisedConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = write_yaml(replace(config, steps=1), tmp_path / "settings.yaml")
    assert main(["train-baseline", "--config", str(settings), "seed=3"]) == 0
    path = Path(config.run_dir) / "baseline.safetensors"
    assert capsys.readouterr().out == f"{path}\n"
    assert load_baseline(path).config["training"]["seed"] == 3


# ------------------------------------------------------------ shipped configurations


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations(path: Path, guitar_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLDIFF_DATA", "/data")
    config = load_config(SupervisedConfig, path)
    assert (config.run_dir, config.train_data, config.val_data) == (
        f"out/train/{path.stem}",
        "/data/guitar/train",
        "/data/guitar/val",
    )
    assert config.samples_per_step % config.segment_lengths[0] == 0
    assert config.val_length == 2 * config.sample_rate
    network = make_network(**config.network)
    size = {"bfloat16": 2, "float32": 4}[config.weights_dtype]
    assert size * sum(tensor.numel() for tensor in network.state_dict().values()) < 5e6
    names = {entry["name"] for entry in config.distortions}
    pairs = Pairs(Crops(guitar_folder, 8000, config.level, config.augmentation), config.distortions)
    x, y = pairs[0, 0, 960]
    assert bool(y.isfinite().all()) and not torch.equal(x, y)
    with torch.no_grad():
        assert apply_network(network, y[None], config.input_level).shape == (1, 960)
    assert names <= {"hard_clip", "soft_clip_r", "overdrive", "amplified_clip"}


def test_every_network_has_its_configurations() -> None:
    found = {path.stem for path in CONFIGS}
    networks = ("demucs", "wave_unet", "umx", "crafx")
    tasks = ("overdrive", "hardclip_16k")
    assert found == {"demucs_hardclip", "demucs_softclip"} | {f"{n}_{t}" for n in networks for t in tasks}
