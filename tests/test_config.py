from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nldiff.config import load_config, read_key
from nldiff.errors import NldiffError
from nldiff.training.prior import TrainingConfig
from nldiff.training.refinement import RefinementConfig

CONFIGS = sorted((Path(__file__).parents[1] / "nldiff" / "configs" / "train").glob("*.yaml"))


@dataclass
class Group:
    size: float = 1.5


@dataclass
class Schema:
    steps: int = 3
    folder: str = "here"
    group: Group = field(default_factory=Group)
    free: dict[str, Any] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=lambda: [1, 2])


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


def test_overrides_beat_the_file_and_the_file_beats_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 5\ngroup: {size: 2}\nfree: {a: 1, b: x}\n")
    loaded = load_config(Schema, path, ["steps=7", "free.b=y", "lengths=[4]"])
    assert loaded == Schema(steps=7, folder="here", group=Group(2.0), free={"a": 1, "b": "y"}, lengths=[4])
    assert isinstance(loaded.group, Group)


def test_empty_braces_clear_a_dictionary(tmp_path: Path) -> None:
    path = write(tmp_path, "free: {a: 1, b: x}\n")
    assert load_config(Schema, path, ["free={}", "free.c=2"]).free == {"c": 2}


def test_defaults_alone() -> None:
    assert load_config(Schema, None) == Schema()


def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLDIFF_DATA", "/somewhere")
    assert load_config(Schema, write(tmp_path, "folder: ${oc.env:NLDIFF_DATA}/train")).folder == "/somewhere/train"


@pytest.mark.parametrize(
    ("text", "overrides", "reason"),
    [
        ("stpes: 5", [], "Key 'stpes'"),
        ("group: {sise: 2}", [], r"group\.sise"),
        ("steps: many", [], "steps: Value 'many'"),
        ("steps: 1.5", [], "steps: Value '1.5'"),
        ("steps: 5", ["stpes=5"], "^'stpes=5': stpes: Key 'stpes' not in"),
        ("steps: 5", ["steps"], "'steps': key=value expected"),
        ("steps: 5", ["group.size=wide"], r"group\.size: Value 'wide'"),
        ("steps: 5", ["lengths=[1,x]"], r"lengths\[1\]: Value 'x'"),
        ("steps: 5", ["group=3"], "^'group=3': "),
        ("steps: 5", ["steps=[1"], r"^'steps=\[1': "),
        ("steps: 5", ["[x=3"], r"^'\[x=3': "),
        ("steps: 5", ["steps="], "^'steps=': steps: "),
        ("folder: ${oc.env:NLDIFF_DATA}", [], "folder: .*'NLDIFF_DATA' not found"),
        ("steps: [1, 2", [], r"settings\.yaml: .*line 1"),
        ("just words", [], r"settings\.yaml: just words: Key"),
        ("- a\n- b", [], r"settings\.yaml: "),
        ("3", [], r"settings\.yaml: "),
        ("\x00\x01", [], r"settings\.yaml: "),
    ],
)
def test_mistakes_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, overrides: list[str], reason: str
) -> None:
    monkeypatch.delenv("NLDIFF_DATA", raising=False)
    with pytest.raises(NldiffError, match=reason) as caught:
        load_config(Schema, write(tmp_path, text), overrides)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NldiffError, match=r"nowhere\.yaml does not exist$"):
        load_config(Schema, tmp_path / "nowhere.yaml")


def test_binary_file(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(NldiffError, match=r"settings\.yaml"):
        load_config(Schema, tmp_path / "settings.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_training_configurations_agree_with_the_schema(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLDIFF_DATA", "/data")
    schemas: dict[str, type[TrainingConfig] | type[RefinementConfig]]
    schemas = {"prior": TrainingConfig, "refinement": RefinementConfig}
    schema = schemas[read_key(path, "trains", "prior")]
    config: TrainingConfig | RefinementConfig = load_config(schema, path)
    corpus = path.stem.partition("_")[0]
    assert config.train_data == f"/data/{corpus}/train"
    assert config.val_data == f"/data/{corpus}/val"
    assert config.run_dir == f"out/train/{path.stem}"
    assert all(config.samples_per_step % length == 0 for length in config.segment_lengths)
    # Without the environment variable, but with the folders given.
    monkeypatch.delenv("NLDIFF_DATA")
    assert load_config(schema, path, ["train_data=a", "val_data=b"]).val_data == "b"
    with pytest.raises(NldiffError, match=r"train_data: .*'NLDIFF_DATA' not found"):
        load_config(schema, path)


def test_flat_sampler_settings_of_earlier_files_become_groups(tmp_path: Path) -> None:
    path = write(tmp_path, "sampler: {steps: 40, zeta: 0.6, cost_hop: 128, operator_warmup: 100}\n")
    config = load_config(TrainingConfig, path, ["settings.sampler.zeta=0.5"])
    assert {group: config.settings[group] for group in ("sampler", "cost", "operator_fit")} == {
        "sampler": {"steps": 40, "zeta": 0.5},
        "cost": {"hop": 128},
        "operator_fit": {"warmup": 100},
    }
    assert config.sampler == {}


EARLIER = {"steps": 40, "sigma_max": 0.5, "sigma_min": 1.0e-3, "churn": 0.0, "zeta": 0.6}
EARLIER |= {"operator_warmup": 100, "operator_segments": 6}


@pytest.mark.parametrize(
    ("name", "earlier", "later"),
    [
        (
            "guitar_small",
            EARLIER | {"refine_iterations": 600, "refine_windows": [4096, 8192, 16384]},
            {"refinement": {"settling": 60}, "curve": {"iterations_divisor": 8}},
        ),
        (
            "speech_small",
            EARLIER
            | {"cost_n_fft": 512, "cost_hop": 128, "refine_iterations": 300, "refine_windows": [512, 1024, 2048]}
            | {"polish_sigma": 0.015},
            {},
        ),
    ],
)
def test_groups_say_what_the_flat_settings_said(
    monkeypatch: pytest.MonkeyPatch, name: str, earlier: dict[str, Any], later: dict[str, Any]
) -> None:
    monkeypatch.setenv("NLDIFF_DATA", "/data")
    path = next(path for path in CONFIGS if path.stem == name)
    expected = TrainingConfig(sampler=earlier).settings
    expected |= {group: expected.get(group, {}) | values for group, values in later.items()}
    assert load_config(TrainingConfig, path).settings == expected


def test_paper_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLDIFF_DATA", "/data")
    paper = next(path for path in CONFIGS if path.stem == "guitar_paper")
    config = asdict(load_config(TrainingConfig, paper))
    expected = {
        "sample_rate": 44100,
        "sigma_data": 0.06,
        "noise_levels": {"name": "karras", "sigma_min": 1e-5, "sigma_max": 10.0, "rho": 10.0},
        "samples_per_step": 4 * 262144,
        "steps": 290_000,
        "learning_rate": 2e-5,
        "weight_decay": 0.01,
        "gradient_clip": 1.0,
        "ema_decay": 0.9999,
        "ema_ramp": 10_000,
    }
    assert {key: config[key] for key in expected} == expected
    assert (min(config["segment_lengths"]), max(config["segment_lengths"])) == (2**14, 2**18)
    assert config["augmentation"]["polarity"] is True
    speech = next(path for path in CONFIGS if path.stem == "speech_paper")
    assert load_config(TrainingConfig, speech).settings == {
        "sampler": {"steps": 100, "sigma_max": 6.0, "sigma_min": 1e-5, "rho": 10.0, "churn": 30.0, "zeta": 0.3},
        "cost": {"n_fft": 512, "hop": 128},
        "refinement": {"name": "none"},
    }
    assert config["settings"] == {"refinement": {"name": "none"}}


def test_one_entry_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("trains: refinement\nrate: 8000\nfolder: ${oc.env:NOWHERE}/x\n")
    assert read_key(path, "trains", "prior") == "refinement"
    assert read_key(path, "rate", "prior") == "8000"
    assert read_key(path, "absent", "prior") == "prior"
    path.write_text("- 1\n")
    assert read_key(path, "trains", "prior") == "prior"
    path.write_text("a: [")
    with pytest.raises(NldiffError, match=r"settings\.yaml"):
        read_key(path, "trains", "prior")


def test_configurations_that_come_with_the_package_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nldiff.config import find_config, shipped_configs

    monkeypatch.chdir(tmp_path)
    assert set(shipped_configs("train")) == {path.stem for path in CONFIGS}
    assert all(find_config(path.stem, "train").read_bytes() == path.read_bytes() for path in CONFIGS)
    (tmp_path / "guitar_small").write_text("seed: 3\n")
    assert find_config("guitar_small", "train") == Path("guitar_small")
    with pytest.raises(NldiffError, match=r"configuration gitar: no such file, and none of .*speech"):
        find_config("gitar", "eval")


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 5000, "{a: " * 5000], ids=["brackets", "dashes", "braces"])
def test_what_is_nested_too_deep_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(text)
    with pytest.raises(NldiffError, match=r"configuration .*deep\.yaml: nested deeper than 50 levels"):
        load_config(Schema, path)
    with pytest.raises(NldiffError, match=r"nested deeper than 50 levels"):
        load_config(Schema, None, [f"lengths={text}"])
