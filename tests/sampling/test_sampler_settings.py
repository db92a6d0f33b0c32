import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

import pytest
import torch
from exact_priors import gaussian
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.sampling.noise import generators
from nldiff.sampling.posterior import sample
from nldiff.sampling.samplers import SAMPLERS, Churn, Guide, Guided
from nldiff.sampling.settings import CostSettings, OperatorFitSettings, SamplerSettings

GROUPS = {"sampler": SamplerSettings, "cost": CostSettings, "operator_fit": OperatorFitSettings}


@dataclass
class Config:
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    cost: CostSettings = field(default_factory=CostSettings)
    operator_fit: OperatorFitSettings = field(default_factory=OperatorFitSettings)


def configured(**groups: dict[str, Any]) -> Config:
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), groups))
    assert isinstance(config, Config)
    return config


def test_defaults_are_the_papers_for_guitar() -> None:
    assert asdict(configured()) == {
        "sampler": {
            "name": "euler", "steps": 50, "sigma_max": 1.0, "sigma_min": 1e-5, "rho": 7.0, "churn": 20.0,
            "noise_scale": 1.0, "zeta": 0.3, "through_denoiser": True,
        },
        "cost": {"n_fft": 1024, "hop": 256, "exponent": 2 / 3},
        "operator_fit": {
            "iterations": 20, "learning_rate": 0.02, "betas": (0.9, 0.99), "warmup": 0, "segments": 0,
            "segment_length": 16384,
        },
    }  # fmt: skip


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("sampler", {"name": "dpm"}, "sampler.name=dpm: one of euler, heun expected"),
    ("sampler", {"steps": 1}, "sampler.steps=1: a number of at least 2 and below 1e+06 expected"),
    ("sampler", {"rho": 0.0}, "sampler.rho=0.0: a number of at least 0.001 expected"),
    ("sampler", {"churn": -1.0}, "sampler.churn=-1.0: a number of at least 0 expected"),
    ("sampler", {"churn": math.inf}, "sampler.churn=inf: a number of at least 0 expected"),
    ("sampler", {"noise_scale": -0.1}, "sampler.noise_scale=-0.1: a number of at least 0 expected"),
    ("sampler", {"zeta": math.nan}, "sampler.zeta=nan: a number of at least 0 expected"),
    ("sampler", {"sigma_min": 0.0}, "sampler.sigma_min=0.0: a number above 0 expected"),
    ("sampler", {"sigma_max": 0.5, "sigma_min": 0.5}, "sampler.sigma_max=0.5: a number of at least 0.5 expected"),
    ("cost", {"n_fft": 511}, "cost.n_fft=511: an even number expected"),
    ("cost", {"n_fft": 0}, "cost.n_fft=0: a number of at least 1 and below 1e+06 expected"),
    ("cost", {"hop": 3}, "cost.hop=3: a proper divisor of cost.n_fft=1024 expected"),
    ("cost", {"hop": 0}, "cost.hop=0: a number of at least 1 and below 1e+06 expected"),
    ("cost", {"n_fft": 512, "hop": 512}, "cost.hop=512: a proper divisor of cost.n_fft=512 expected"),
    ("cost", {"exponent": 0.0}, "cost.exponent=0: a number above 0 and at most 1 expected"),
    ("cost", {"exponent": 1.5}, "cost.exponent=1.5: a number above 0 and at most 1 expected"),
    ("operator_fit", {"iterations": -1}, "operator_fit.iterations=-1: a number of at least 0 and below 1e+06 expected"),
    ("operator_fit", {"learning_rate": -1.0}, "operator_fit.learning_rate=-1.0: a number of at least 0 expected"),
    ("operator_fit", {"warmup": -1}, "operator_fit.warmup=-1: a number of at least 0 and below 1e+06 expected"),
    ("operator_fit", {"segments": -1}, "operator_fit.segments=-1: a number of at least 0 and below 1e+06 expected"),
    ("operator_fit", {"segment_length": 0}, "operator_fit.segment_length=0: a number of at least 1 expected"),
    (
        "operator_fit", {"betas": (0.9, 1.0)},
        "operator_fit.betas=(0.9, 1.0): a number of at least 0 and below 1 expected",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("group", "options", "message"), WRONG)
def test_wrong_values_are_named_directly_and_from_a_configuration(
    group: str, options: dict[str, Any], message: str
) -> None:
    for build in (lambda: GROUPS[group](**options), lambda: configured(**{group: options})):
        with pytest.raises(NldiffError) as error:
            build()
        assert str(error.value) == message


def test_one_beta_is_refused() -> None:
    with pytest.raises(NldiffError, match=r"operator_fit\.betas=\(0\.9,\): two numbers expected"):
        OperatorFitSettings(betas=(0.9,))  # type: ignore[arg-type]


def test_settings_merge_in_a_configuration_and_stay_frozen() -> None:
    config = configured(sampler={"steps": 7, "name": "heun"}, operator_fit={"betas": [0.5, 0.6]})
    assert config.sampler == SamplerSettings(name="heun", steps=7)
    assert config.operator_fit == OperatorFitSettings(betas=(0.5, 0.6))
    assert config.cost == CostSettings()
    with pytest.raises(FrozenInstanceError):
        config.sampler.steps = 8  # type: ignore[misc]


@given(steps=st.integers(2, 60), low=st.floats(1e-6, 0.1), ratio=st.floats(1.1, 1e4), rho=st.floats(1.0, 12.0))
def test_the_schedule_follows_the_settings(steps: int, low: float, ratio: float, rho: float) -> None:
    levels = SamplerSettings(steps=steps, sigma_min=low, sigma_max=low * ratio, rho=rho).schedule().tolist()
    roots = [level ** (1 / rho) for level in levels[:-1]]
    first, last = (low * ratio) ** (1 / rho), low ** (1 / rho)
    expected = [first + i / (steps - 1) * (last - first) for i in range(steps)]
    assert roots == pytest.approx(expected, rel=1e-5)
    assert levels[-1] == 0


@pytest.mark.parametrize("settings", GROUPS.values())
def test_every_setting_is_documented(settings: type) -> None:
    assert settings.__doc__ is not None
    described = settings.__doc__.split("Attributes:")[1]
    assert all(f"{setting.name}:" in described for setting in fields(settings))


# --- A new sampler: a function and a line in the table


def midpoint(x: Tensor, levels: Sequence[float], churn: Churn, guide: Guide) -> Iterator[tuple[Tensor, Guided]]:
    """Second order, with the slope in the middle of the step."""
    for sigma, following in pairwise(levels):
        x, raised = churn(x, sigma)
        guided = guide(x, raised)
        middle = (raised + following) / 2
        x = x + (following - raised) * guide(x + (middle - raised) * guided.slope, middle, fit=False).slope
        yield x, guided


def test_a_third_sampler_is_a_function_and_a_line_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NldiffError, match=r"sampler\.name=midpoint: one of euler, heun expected"):
        SamplerSettings(name="midpoint")
    monkeypatch.setitem(SAMPLERS, "midpoint", midpoint)
    settings = SamplerSettings(name="midpoint", steps=6, churn=0.0, sigma_max=2.0, sigma_min=0.01)
    levels, spread = settings.schedule().double(), 0.3
    posterior = sample(gaussian(spread), None, None, levels, settings, generators([1]), shape=(1, 20))
    rate: Callable[[float], float] = lambda sigma: sigma / (sigma**2 + spread**2)  # noqa: E731
    factor = 2.0
    for sigma, following in pairwise(levels.tolist()):
        middle = (sigma + following) / 2
        factor *= 1 + (following - sigma) * rate(middle) * (1 + (middle - sigma) * rate(sigma))
    expected = factor * torch.randn(20, generator=generators([1])[0]).double()
    torch.testing.assert_close(posterior.audio[0], expected, rtol=1e-10, atol=0)
    assert posterior.evaluations == 12
