import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY_RATE, intervals, tones
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import Distortion
from nldiff.priors.saved import Prior
from nldiff.restoration.drawing import DrawingSettings, drawn
from nldiff.restoration.evidence import binding
from nldiff.restoration.feasible import Intervals
from nldiff.restoration.increasing import known_increasing
from nldiff.restoration.polish import polish, polish_levels
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.uncertainty import guessed_sdr
from nldiff.restoration.workspace import Workspace, make_workspace, seed_of
from nldiff.sampling import generators
from nldiff.sound.recording import Recording

LEVELS = torch.tensor([[0.04, 0.04, 0.04], [0.02, 0.02, 0.02], [0.01, 0.01, 0.01]])
EVERYWHERE = Intervals(torch.tensor(-torch.inf), torch.tensor(torch.inf))
REFINED: dict[str, Any] = {"refinement": {"name": "auto", "iterations": 10, "windows": [512]}}


def half(x: Tensor, sigma: Tensor) -> Tensor:
    return x / 2


def test_what_the_prior_leaves_of_the_noise_is_added() -> None:
    x = torch.ones(2, 50)
    result = drawn(half, x, EVERYWHERE, LEVELS[:, :2], generators([3, 4]))
    for i, seed in enumerate((3, 4)):
        first, second, third = (torch.randn(50, generator=source) for source in generators([seed]) for _ in range(3))
        torch.testing.assert_close(result[i], 1 + (0.04 * first + 0.02 * second + 0.01 * third) / 2)


def test_what_a_prior_takes_off_the_signal_itself_stays() -> None:
    x = torch.randn(1, 50)
    silencing = torch.zeros_like
    torch.testing.assert_close(drawn(lambda x, sigma: silencing(x), x, EVERYWHERE, LEVELS[:, :1], generators([3])), x)


def test_what_the_prior_does_to_noise_of_either_sign_stays_out() -> None:
    x = torch.zeros(1, 50)
    squared = drawn(lambda x, sigma: x.square(), x, EVERYWHERE, LEVELS[:, :1], generators([3]))
    torch.testing.assert_close(squared, x)


def test_noise_is_added_at_the_rate_of_the_prior() -> None:
    x = torch.tensor([[3.0, -1.0] * 20])
    result = drawn(
        half, x, EVERYWHERE, LEVELS[:1, :1], generators([3]),
        lambda x: x.unflatten(1, (-1, 2)).mean(-1), lambda x: x.repeat_interleave(2, 1),
    )  # fmt: skip
    noise = torch.randn(20, generator=generators([3])[0]).repeat_interleave(2)
    torch.testing.assert_close(result[0], x[0] + 0.02 * noise)


def test_draws_stay_between_the_bounds_and_differ_only_where_these_leave_room() -> None:
    x, feasible = intervals(2, 3, 400)
    exact = torch.arange(400) < 200
    feasible = Intervals(torch.where(exact, x, feasible.low), torch.where(exact, x, feasible.high))
    one, other = (drawn(half, x, feasible, LEVELS, generators(seeds)) for seeds in ([0, 1, 2], [3, 4, 5]))
    for draw in (one, other):
        assert bool(((feasible.low <= draw) & (draw <= feasible.high)).all())
        assert torch.equal(draw[:, :200], x[:, :200])
    open_samples = (feasible.high > feasible.low)[:, 200:]
    assert bool((one != other)[:, 200:][open_samples].float().mean() > 0.99)


def test_samples_stay_away_from_the_edges_by_the_trust() -> None:
    x = torch.zeros(1, 5)
    found = drawn(lambda x, sigma: torch.zeros_like(x), x, Intervals(x, x + torch.inf), LEVELS[:1, :1],
                  generators([0]), trust=0.5)  # fmt: skip
    torch.testing.assert_close(found, torch.full((1, 5), 0.02 * math.sqrt(2 / math.pi)))
    closer = drawn(
        lambda x, sigma: torch.zeros_like(x), x, Intervals(x, x + torch.inf), LEVELS[:1, :1], generators([0])
    )
    torch.testing.assert_close(closer, found / 10)  # the default


@pytest.mark.parametrize("change", [{"share": 0.0}, {"trust": 0.0}, {"steps": 0}])
def test_draws_that_would_be_none_are_refused(change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(NldiffError, match=f"drawing.{name}=0"):
        DrawingSettings(**change)


def test_a_single_level_is_enough_for_a_draw() -> None:
    assert DrawingSettings(share=1e-3, trust=1e-3, steps=1).steps == 1


def test_items_have_levels_and_noise_of_their_own() -> None:
    x, feasible = intervals(4, 2, 100)
    levels = torch.tensor([[0.04, 0.02], [0.01, 0.005]])
    both = drawn(half, x, feasible, levels, generators([3, 4]))
    for i, seed in enumerate((3, 4)):
        alone = drawn(half, x[[i]], feasible.of([i]), levels[:, [i]], generators([seed]))
        torch.testing.assert_close(both[[i]], alone)


# ------------------------------------------------------------ in a workspace


def clipped_workspace(prior: Prior, **settings: Any) -> tuple[Workspace, Tensor, Any]:
    """A workspace for clipped tones, what was observed at the prior's level, and their curve, which is exact."""
    clipper = Distortion("hard_clip", {"threshold": 0.06})
    y = clipper(tones(0))
    config = RestoreConfig(**REFINED | settings)
    work = make_workspace(Recording.from_array(y.numpy(), TINY_RATE), prior, config, None)
    observed = work.gain * y
    curve = known_increasing(clipper.at_level(work.gain), 2.0, observed, work.settings.curve)
    assert curve is not None
    return work, observed, replace(curve, tolerance=curve.tolerance / 32, exact_where_steep=True)


def test_without_draws_the_polish_is_what_it_was(prior: Prior) -> None:
    work, y, curve = clipped_workspace(prior, polish={"sigma": 0.01, "steps": 3, "share": 2.0})
    feasible = curve.feasible(y)
    x = feasible.project(1.2 * y)
    settings = work.settings.polish
    sdr = guessed_sdr(binding(x, feasible))
    errors = x.std(correction=0)[None] * 10 ** (-sdr / 20)
    sources = generators([seed_of(0, 0, 0)])
    expected = polish(prior.denoiser, x, feasible, polish_levels(settings, 1e-3, errors), sources)
    assert torch.equal(work.finished([0], x, curve, y), expected)
    assert not torch.equal(expected, x)
    silent, *_ = clipped_workspace(prior)
    assert silent.finished([0], x, curve, y) is x


def test_a_draw_starts_from_the_error_that_open_samples_are_expected_to_have(
    prior: Prior, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def spy(denoiser: Any, x: Tensor, feasible: Any, levels: Tensor, *others: Any) -> Tensor:
        seen.append(levels)
        return x

    monkeypatch.setattr("nldiff.restoration.workspace.drawn", spy)
    work, y, curve = clipped_workspace(prior, drawing={"enabled": True, "share": 3.0, "steps": 3})
    feasible = curve.feasible(y)
    x = feasible.project(1.2 * y)
    work.finished([0], x, curve, y)
    polishing, *_ = clipped_workspace(prior)
    overall = float(polishing._expected_error(x, feasible))
    open_share = float((feasible.high == torch.inf).double().mean() + (feasible.low == -torch.inf).double().mean())
    first = 3 * overall / open_share**0.5
    (levels,) = seen
    np.testing.assert_allclose(levels[:, 0], [first, (first * 1e-3) ** 0.5, 1e-3], rtol=0.01)


def test_nothing_is_drawn_where_nothing_is_open(prior: Prior) -> None:
    work, y, curve = clipped_workspace(prior, drawing={"enabled": True})
    straight = replace(curve, table=type(curve.table)(torch.tensor([-9.0, 9.0]), torch.tensor([-9.0, 9.0])))
    assert work.finished([0], y, straight, y) is y


def test_draws_cost_two_evaluations_a_level(prior: Prior) -> None:
    work, *_ = clipped_workspace(prior, drawing={"enabled": True, "steps": 4}, polish={"sigma": 0.01, "steps": 3})
    assert work.settings.last_evaluations == 8
    work, *_ = clipped_workspace(prior, polish={"sigma": 0.01, "steps": 3, "draws": 2})
    assert work.settings.last_evaluations == 6
