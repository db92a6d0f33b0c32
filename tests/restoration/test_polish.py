import pytest
import torch
from helpers import intervals
from torch import Tensor

from nldiff.restoration.feasible import Intervals
from nldiff.restoration.polish import PolishSettings, polish, polish_levels
from nldiff.sampling import generators

LEVELS = torch.tensor([[0.04, 0.04, 0.04], [0.02, 0.02, 0.02], [0.01, 0.01, 0.01]])
EVERYWHERE = Intervals(torch.tensor(-torch.inf), torch.tensor(torch.inf))


def half(x: Tensor, sigma: Tensor) -> Tensor:
    return x / 2


def test_polishing_adds_noise_of_each_level_and_denoises() -> None:
    x = torch.ones(2, 50)
    result = polish(half, x, EVERYWHERE, LEVELS[:, :2], generators([3, 4]))
    for i, seed in enumerate((3, 4)):
        first, second, third = (torch.randn(50, generator=source) for source in generators([seed]) for _ in range(3))
        torch.testing.assert_close(result[i], (((1 + 0.04 * first) / 2 + 0.02 * second) / 2 + 0.01 * third) / 2)


def test_polishing_adds_what_the_prior_changes_at_its_own_rate() -> None:
    x = torch.tensor([[3.0, -1.0] * 20])
    # The prior sees the means of pairs, which are 1, and nothing of what is above its band.
    result = polish(
        half, x, EVERYWHERE, LEVELS[:1, :1], generators([3]),
        lambda x: x.unflatten(1, (-1, 2)).mean(-1), lambda x: x.repeat_interleave(2, 1),
    )  # fmt: skip
    noise = torch.randn(20, generator=generators([3])[0]).repeat_interleave(2)
    torch.testing.assert_close(result[0], x[0] + (0.04 * noise - 1) / 2)


def test_polishing_stays_between_the_bounds() -> None:
    x, feasible = intervals(2, 3, 400)
    x = feasible.project(x)
    result = polish(half, x, feasible, LEVELS, generators([0, 1, 2]))
    assert bool(((feasible.low <= result) & (result <= feasible.high)).all())
    assert not torch.equal(result, x)
    assert torch.equal(polish(half, x, Intervals(x, x), LEVELS, generators([0, 1, 2])), x)


def test_items_have_levels_of_their_own() -> None:
    x, feasible = intervals(4, 2, 100)
    levels = torch.tensor([[0.04, 0.02], [0.01, 0.005]])
    both = polish(half, x, feasible, levels, generators([3, 4]))
    for i, seed in enumerate((3, 4)):
        alone = polish(half, x[[i]], feasible.of([i]), levels[:, [i]], generators([seed]))
        torch.testing.assert_close(both[[i]], alone)


def test_levels_fall_by_the_same_factor_to_the_lowest_of_the_prior() -> None:
    errors = torch.tensor([1.0, 0.04, 0.001])

    def levels(sigma: float, steps: int) -> list[list[float]]:
        return polish_levels(PolishSettings(sigma=sigma, steps=steps, share=0.5), 0.01, errors).tolist()

    # the highest level, half of the error, and the lowest level, each as the limit
    first, second, third = levels(0.04, 3)
    assert first == pytest.approx([0.04, 0.02, 0.01])
    assert second == pytest.approx([0.02, 0.02**0.5 / 10, 0.01])
    assert third == pytest.approx([0.01, 0.01, 0.01])
    assert levels(0.04, 1) == [pytest.approx([0.04, 0.02, 0.01])]
