import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nldiff.sampling.noise import add_churn, draw_noise, generators


def test_noise_of_a_seed_is_the_same_in_every_precision_and_batch() -> None:
    like = torch.zeros(2, 5, dtype=torch.float64)
    drawn = draw_noise(like, generators([1, 2]))
    assert torch.equal(drawn, draw_noise(like.float(), generators([1, 2])).double())
    assert torch.equal(drawn[[1]], draw_noise(like[:1], generators([2])))
    assert not torch.equal(drawn[0], drawn[1])


def test_a_generator_goes_on_where_it_stopped() -> None:
    sources = generators([3])
    parts = [draw_noise(torch.zeros(1, 16), sources) for _ in range(2)]
    assert not torch.equal(*parts)
    expected = [torch.randn(16, generator=source) for source in generators([3]) for _ in range(2)]
    assert torch.equal(torch.cat(parts), torch.stack(expected))


@pytest.mark.parametrize(("share", "raised"), [(0.2, 0.6), (7.0, 0.5 * math.sqrt(2))])
def test_churn_raises_the_noise_level_and_adds_the_missing_variance(share: float, raised: float) -> None:
    x = torch.ones(2, 50_000, dtype=torch.float64)
    noisier, level = add_churn(x, 0.5, share, 1.1, generators([0, 1]))
    assert level == pytest.approx(raised)
    added = 1.1 * math.sqrt(raised**2 - 0.5**2) * draw_noise(x, generators([0, 1]))
    torch.testing.assert_close(noisier, x + added, rtol=1e-12, atol=0)


@given(sigma=st.floats(1e-5, 100))
def test_no_churn_changes_nothing_and_draws_nothing(sigma: float) -> None:
    sources = generators([0])
    x = torch.ones(1, 4)
    same, level = add_churn(x, sigma, 0.0, 1.0, sources)
    assert same is x
    assert level == sigma
    assert torch.equal(draw_noise(x, sources), draw_noise(x, generators([0])))
