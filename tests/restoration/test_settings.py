from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import TINY_RATE, clipped

from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.priors.saved import Prior
from nldiff.restoration.increasing import CurveSettings
from nldiff.restoration.pipeline import restore
from nldiff.restoration.polish import PolishSettings
from nldiff.restoration.settings import RestoreConfig, Settings, check_config, resolve_settings
from nldiff.restoration.sparse import RefinementSettings
from nldiff.sampling.settings import CostSettings, OperatorFitSettings, SamplerSettings

GROUPS = [f.name for f in fields(Settings)]


@dataclass(frozen=True)
class Recommending(Prior):
    """A prior that recommends `config["settings"]`."""

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The recommendations."""
        groups: dict[str, dict[str, Any]] = self.config["settings"]
        return groups


def recommending(prior: Prior, settings: dict[str, dict[str, Any]]) -> Recommending:
    values = {f.name: getattr(prior, f.name) for f in fields(Prior)}
    return Recommending(**values | {"config": {"settings": settings}})


def in_group(group: str, key: str, value: Any) -> RestoreConfig:
    changes: dict[str, Any] = {group: {key: value}}
    return RestoreConfig(**changes)


# ------------------------------------------------------------ library < prior < file < argument


def test_settings_of_the_user_beat_those_of_the_prior_and_those_the_library(prior: Prior) -> None:
    chosen = resolve_settings(prior, RestoreConfig(sampler={"operator_iterations": 7, "zeta": 0.5}))
    assert (chosen.sampler.steps, chosen.operator_fit.iterations) == (3, 7)
    assert (chosen.sampler.zeta, chosen.sampler.sigma_max) == (0.5, 1.0)


# Group -> four fields of it: who changes them last is the library, the prior, the file, an argument.
FIELDS: dict[str, list[tuple[str, Any, Any, Any]]] = {
    "sampler": [("steps", 11, 12, 13), ("zeta", 0.1, 0.2, 0.4), ("rho", 5.0, 6.0, 8.0), ("churn", 1.0, 2.0, 3.0)],
    "cost": [("n_fft", 512, 2048, 4096), ("hop", 128, 64, 32), ("exponent", 0.4, 0.5, 0.6)],
    "operator_fit": [
        ("iterations", 1, 2, 3), ("warmup", 4, 5, 6), ("segments", 1, 2, 3), ("learning_rate", 0.1, 0.2, 0.3),
    ],
    "refinement": [
        ("iterations", 1, 2, 3), ("momentum", 0.1, 0.2, 0.3), ("last_threshold", 0.01, 0.02, 0.03),
        ("name", "none", "sparse", "none"),
    ],
    "curve": [("points", 10, 20, 30), ("halvings", 1, 2, 3), ("tolerance", 0.1, 0.2, 0.3), ("exact_after", 1, 3, 4)],
    "polish": [("sigma", 0.01, 0.02, 0.03), ("steps", 1, 2, 3)],
    "drawing": [("share", 1.0, 2.0, 3.0), ("steps", 1, 2, 3)],
    "evidence": [("order", 8, 12, 16), ("bias", -1.0, -2.0, -3.0)],
    "branches": [("rounds", 1, 2, 4), ("order", 8, 12, 16)],
    "plateaus": [("evaluations", 5, 6, 7), ("seconds", 0.5, 0.6, 0.7)],
    "overdrive": [("started", 1, 2, 4), ("order", 8, 12, 16)],
    "bent": [("knots", 4, 5, 6), ("steps", 5, 6, 7)],
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("rounds", range(4))
def test_arguments_beat_the_file_the_file_the_prior_and_the_prior_the_library(
    prior: Prior, tmp_path: Path, name: str, rounds: int
) -> None:
    # In round 0 nobody changes the first field, the prior changes the second, prior and file the third, all the fourth.
    by_prior: dict[str, Any] = {}
    by_file: dict[str, Any] = {}
    arguments, expected = [], {}
    for i, (key, *values) in enumerate(FIELDS[name]):
        changes = (rounds + i) % 4
        expected[key] = values[changes - 1] if changes else getattr(getattr(Settings(), name), key)
        by_prior |= {key: values[0]} if changes > 0 else {}
        by_file |= {key: values[1]} if changes > 1 else {}
        arguments += [f"{name}.{key}={values[2]}"] if changes > 2 else []
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump({name: by_file}))
    config = load_config(RestoreConfig, file, arguments)
    found = getattr(resolve_settings(recommending(prior, {name: by_prior}), config), name)
    assert {key: getattr(found, key) for key in expected} == expected


@pytest.mark.parametrize("name", GROUPS)
def test_a_group_that_nobody_changes_is_the_librarys_and_one_that_only_the_prior_changes_the_priors(
    prior: Prior, name: str
) -> None:
    key, value, *_ = FIELDS[name][0]
    untouched = resolve_settings(recommending(prior, {}), RestoreConfig())
    changed = resolve_settings(recommending(prior, {name: {key: value}}), RestoreConfig())
    default = replace(Settings(), sampler=SamplerSettings(sigma_min=prior.sigma_min))
    assert untouched == default
    assert changed == replace(default, **{name: replace(getattr(default, name), **{key: value})})


@pytest.mark.parametrize(("wanted", "lowest"), [(1e-9, 1e-3), (0.02, 0.02)])
def test_the_schedule_is_not_below_the_training_of_the_prior(prior: Prior, wanted: float, lowest: float) -> None:
    found = resolve_settings(prior, RestoreConfig(sampler={"sigma_min": wanted}))
    assert found.sampler.sigma_min == lowest


# ------------------------------------------------------------ names of version 0.1


OLD: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({"heun": True}, "sampler", {"name": "heun"}),
    ({"heun": False}, "sampler", {"name": "euler"}),
    ({"cost_n_fft": 512}, "cost", {"n_fft": 512}),
    ({"cost_hop": 128}, "cost", {"hop": 128}),
    ({"operator_iterations": 7}, "operator_fit", {"iterations": 7}),
    ({"operator_learning_rate": 0.5}, "operator_fit", {"learning_rate": 0.5}),
    ({"operator_betas": [0.5, 0.6]}, "operator_fit", {"betas": (0.5, 0.6)}),
    ({"operator_warmup": 9}, "operator_fit", {"warmup": 9}),
    ({"operator_segments": 2}, "operator_fit", {"segments": 2}),
    ({"operator_segment_length": 99}, "operator_fit", {"segment_length": 99}),
    ({"refine_iterations": 0}, "refinement", {"name": "none"}),
    ({"refine_iterations": 40}, "refinement", {"name": "auto", "iterations": 40}),
    ({"refine_windows": [64, 512]}, "refinement", {"windows": (64, 512)}),
    ({"polish_sigma": 0.02}, "polish", {"sigma": 0.02}),
    ({"polish_steps": 2}, "polish", {"steps": 2}),
    ({"steps": 17, "zeta": 0.7}, "sampler", {"steps": 17, "zeta": 0.7}),
]  # fmt: skip


@pytest.mark.parametrize(("old", "group", "expected"), OLD, ids=[str(next(iter(old.items()))) for old, *_ in OLD])
def test_old_names_mean_what_they_meant(
    prior: Prior, old: dict[str, Any], group: str, expected: dict[str, Any]
) -> None:
    before = resolve_settings(prior, RestoreConfig())
    found = resolve_settings(prior, RestoreConfig(sampler=old))
    assert found == replace(before, **{group: replace(getattr(before, group), **expected)})


@pytest.mark.parametrize(("old", "group", "expected"), OLD, ids=[str(next(iter(old.items()))) for old, *_ in OLD])
def test_new_names_beat_old_ones_and_old_ones_the_prior(
    prior: Prior, old: dict[str, Any], group: str, expected: dict[str, Any]
) -> None:
    key, value, *_ = FIELDS[group][0]
    recommended = recommending(prior, {group: {key: value}})
    changed = RestoreConfig(sampler=old)
    found = getattr(resolve_settings(recommended, changed), group)
    assert getattr(found, key) == expected.get(key, value)
    if group == "sampler":
        return
    name, meant = next(iter(expected.items()))
    other: Any = {"windows": (8,), "name": "sparse", "betas": (0.1, 0.2), "n_fft": 2048}.get(
        name, 2 if isinstance(meant, int) else 0.03
    )
    both = replace(in_group(group, name, other), sampler=old)
    new = getattr(resolve_settings(recommended, both), group)
    assert getattr(new, name) == other


def test_old_and_new_names_of_different_settings_add_up(prior: Prior) -> None:
    config = RestoreConfig(sampler={"operator_warmup": 9, "zeta": 0.7}, operator_fit={"segments": 3})
    found = resolve_settings(prior, config)
    assert (found.operator_fit.warmup, found.operator_fit.segments, found.operator_fit.iterations) == (9, 3, 2)
    assert (found.sampler.zeta, found.sampler.steps) == (0.7, 3)


# ------------------------------------------------------------ values out of range


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "refine_windows",
            [512, 1022],
            "refinement.windows=[512, 1022]: positive multiples of 4, the shortest first, expected",
        ),
        ("refine_windows", [0], "refinement.windows=[0]: positive multiples of 4, the shortest first, expected"),
        ("refine_windows", [-8], "refinement.windows=[-8]: positive multiples of 4, the shortest first, expected"),
        (
            "refine_windows",
            [512, 64],
            "refinement.windows=[512, 64]: positive multiples of 4, the shortest first, expected",
        ),
        ("refine_windows", [], "refinement.windows=[]: positive multiples of 4, the shortest first, expected"),
        ("refine_iterations", -1, "refinement.iterations=-1: a number of at least 1 and below 1e+06 expected"),
        ("polish_sigma", -0.5, "polish.sigma=-0.5: a number of at least 0 expected"),
        ("polish_sigma", 1e-9, "polish.sigma=1e-09: 0 or at least 0.001 expected"),
        ("polish_steps", 0, "polish.steps=0: a number of at least 1 expected"),
    ],
)
def test_settings_out_of_range_are_refused_in_one_line(prior: Prior, key: str, value: Any, message: str) -> None:
    with pytest.raises(NldiffError) as caught:
        resolve_settings(prior, RestoreConfig(sampler={key: value}))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("sampler", "named"),
    [
        ({"stpes": 5}, "'sampler.stpes'"),
        ({"steps": 1}, "sampler.steps=1"),
        ({"steps": "many"}, "sampler.steps"),
        ({"steps": 2.5}, "sampler.steps"),
        ({"zeta": "strong"}, "sampler.zeta"),
        ({"zeta": -0.1}, "sampler.zeta=-0.1"),
        ({"zeta": float("nan")}, "sampler.zeta=nan"),
        ({"sigma_max": 1e-3}, "sampler.sigma_max"),
        ({"sigma_max": float("inf")}, "sampler.sigma_max"),
        ({"rho": 0}, "sampler.rho"),
        ({"churn": -1}, "sampler.churn"),
        ({"operator_learning_rate": -1}, "operator_fit.learning_rate"),
        ({"operator_betas": [0.9]}, "operator_fit.betas|operator_fit.* length"),
        ({"operator_betas": [0.9, 1.0]}, "operator_fit.betas"),
        ({"operator_betas": {}}, "operator_fit"),
        ({"operator_segments": -1}, "operator_fit.segments"),
        ({"cost_n_fft": 0}, "cost.n_fft=0"),
        ({"cost_n_fft": 511}, "cost.n_fft=511"),
        ({"cost_hop": 0}, "cost.hop=0"),
        ({"cost_hop": 1024}, "cost.hop=1024"),
        ({"cost_n_fft": 512, "cost_hop": 100}, "cost.hop=100"),
        ({"operator_segments": 2, "operator_segment_length": 0}, "operator_fit.segment_length"),
        ({"refine_windows": {"a": 3}}, "refinement"),
    ],
)
def test_sampler_settings_that_make_no_sense_are_refused(prior: Prior, sampler: dict[str, Any], named: str) -> None:
    with pytest.raises(NldiffError, match=named) as caught:
        restore(clipped(0.2, TINY_RATE)[0], TINY_RATE, prior, config=RestoreConfig(sampler=sampler))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": -1}, "seed=-1"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"joint_items": 0}, "joint_items=0"),
        ({"chunk_seconds": 0.01}, "chunk_seconds=0.01"),
        ({"chunk_seconds": float("inf")}, "chunk_seconds=inf"),
        ({"chunk_seconds": float("nan")}, "chunk_seconds=nan"),
        ({"excerpt_seconds": 0.01}, "excerpt_seconds=0.01"),
        ({"overlap_seconds": -0.1}, "overlap_seconds=-0.1"),
        ({"chunk_seconds": 1.0, "overlap_seconds": 0.5}, "overlap_seconds=0.5"),
        ({"above_band": "mix"}, "above_band=mix"),
        ({"warm_start": "cold"}, "warm_start=cold: histogram or observation expected"),
        ({"waveshaper": "spline"}, "'spline'"),
        ({"waveshaper_options": {"pionts": 3}}, "'pionts'"),
        ({"waveshaper_options": {"points": 4}}, "points=4"),
        ({"waveshaper_options": {"points": "few"}}, "few"),
        ({"refinement": {"name": "rough"}}, "refinement.name=rough: auto or one of sparse, branches, none expected"),
    ],
)
def test_other_settings_that_make_no_sense_are_refused(prior: Prior, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(NldiffError, match=named) as caught:
        restore(clipped(0.2, TINY_RATE)[0], TINY_RATE, prior, config=RestoreConfig(**settings))
    assert "\n" not in str(caught.value)


def test_settings_on_the_edge_of_their_range_are_accepted() -> None:
    check_config(RestoreConfig(chunk_seconds=1.0, overlap_seconds=0.49, joint_items=1, batch_size=1))


@pytest.mark.parametrize("name", GROUPS)
def test_an_unknown_entry_of_a_group_is_named_with_the_known_ones(prior: Prior, name: str) -> None:
    known = ", ".join(f.name for f in fields(getattr(Settings(), name)))
    with pytest.raises(NldiffError) as caught:
        resolve_settings(prior, in_group(name, "nonsense", 1))
    assert str(caught.value) == f"unknown setting '{name}.nonsense' (known: {known})"


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("value", ["x", {"a": 3}, {}, [[1]], float("inf"), float("nan"), None])
def test_values_of_another_kind_are_refused_in_one_line_for_every_setting(prior: Prior, name: str, value: Any) -> None:
    for f in fields(getattr(Settings(), name)):
        if f.name in ("name", "network") or (f.type == "bool" and value == float("inf")):  # any text is a name or file
            continue
        with pytest.raises(NldiffError, match=f"^{name}[.:]") as caught:
            resolve_settings(prior, in_group(name, f.name, value))
        assert "\n" not in str(caught.value)


BELOW_AND_ABOVE: dict[type, dict[str, list[Any]]] = {
    SamplerSettings: {
        "name": ["newton"], "steps": [1, -5], "sigma_max": [1e-5, -1.0], "sigma_min": [0.0, -1.0], "rho": [0.0, -1.0],
        "churn": [-1.0], "noise_scale": [-1.0], "zeta": [-0.1],
    },
    CostSettings: {"n_fft": [0, 7, -2], "hop": [0, 1024, 300, -256], "exponent": [0.0, 1.1, -1.0]},
    OperatorFitSettings: {
        "iterations": [-1], "learning_rate": [-1.0], "betas": [(0.9,), (0.9, 1.0), (-0.1, 0.9)], "warmup": [-1],
        "segments": [-1], "segment_length": [0],
    },
    RefinementSettings: {
        "iterations": [0, -1], "windows": [(), (2,), (6,), (512, -4)], "first_threshold": [0.0, -1.0],
        "last_threshold": [0.0, -1.0], "momentum": [1.0, -0.1], "energy_floor": [0.0, -1.0], "settling": [-1],
        "settling_threshold": [0.0, -1.0],
    },
    CurveSettings: {
        "tolerance": [0.0, -1.0], "points": [1, -1], "steep_slope": [0.0, -1.0], "rare_share": [0.0, 0.5, -1.0],
        "unexplained_power": [0.0, -1.0], "monotone_excess": [0.0, -1.0], "largest_rms": [0.0, -1.0],
        "knee_headroom": [0.0, -1.0], "iterations_divisor": [0, -1], "loosening": [(4.0, 0.5), (0.0,)],
        "halvings": [-1], "spread_growth": [0.0, -1.0], "exact_after": [-1],
    },
    PolishSettings: {"sigma": [-0.1], "steps": [0, -1], "share": [0.0], "draws": [0], "trust": [0.0, -1.0]},
}  # fmt: skip


@pytest.mark.parametrize("kind", BELOW_AND_ABOVE)
def test_every_group_refuses_values_out_of_range(kind: type) -> None:
    ranges = BELOW_AND_ABOVE[kind]
    free = {SamplerSettings: {"through_denoiser"}, RefinementSettings: {"name", "network"}}.get(kind, set())
    assert {f.name for f in fields(kind)} - free == set(ranges)
    for name, values in ranges.items():
        for value in [*values, *([] if name == "name" else [float("inf"), float("nan")])]:
            wrong = (value, value) if isinstance(getattr(kind(), name), tuple) and isinstance(value, float) else value
            with pytest.raises(NldiffError, match=rf"\.{name}=.* expected") as caught:
                kind(**{name: wrong})
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("quality", "iterations"), [("fast", 30), ("normal", 90), ("best", 180)])
def test_the_quality_changes_what_the_prior_recommends_but_not_what_the_user_sets(
    prior: Prior, quality: str, iterations: int
) -> None:
    recommended = recommending(prior, {"refinement": {"iterations": 90}, "sampler": {"steps": 40}})
    found = resolve_settings(recommended, RestoreConfig(quality=quality))
    assert found.refinement.iterations == iterations
    assert found.sampler.steps == (20 if quality == "fast" else 40)
    own = RestoreConfig(quality=quality, refinement={"iterations": 7}, sampler={"steps": 50})
    found = resolve_settings(recommended, own)
    assert (found.refinement.iterations, found.sampler.steps) == (7, 50)


def test_an_unknown_quality_is_refused() -> None:
    with pytest.raises(NldiffError, match=r"^quality=better: fast, normal, best expected$"):
        check_config(RestoreConfig(quality="better"))
