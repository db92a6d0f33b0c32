from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers import TINY_RATE, FakeSampler, clipped, plucked, rms, tones

import nldiff
from nldiff.errors import NldiffError
from nldiff.operators import Distortion, Identity
from nldiff.priors.saved import Prior
from nldiff.restoration.draws import Draw, draw_config, levelled, mean_and_spread, relative_db, restore_draws
from nldiff.restoration.estimation import Trace
from nldiff.restoration.fit import Fit, Sampling
from nldiff.restoration.levels import Settled
from nldiff.restoration.parts import Part
from nldiff.restoration.pipeline import read_array, restore
from nldiff.restoration.settings import RestoreConfig, Settings

LEVEL = 0.06
KNOWN = Distortion("hard_clip", {"threshold": LEVEL})
LONG: dict[str, Any] = {"refinement": {"name": "auto", "iterations": 200, "windows": [1024]}}
QUICK: dict[str, Any] = {
    "refinement": {"name": "auto", "iterations": 10, "windows": [512]},
    "drawing": {"steps": 2},
    "level": "unity",
}


def test_mean_and_standard_deviation_by_hand() -> None:
    audio = np.array([[[1.0, 0.1]], [[3.0, 0.1]], [[8.0, 0.1]]])
    mean, spread = mean_and_spread(audio)
    np.testing.assert_allclose(mean, [[4.0, 0.1]])
    np.testing.assert_allclose(spread[0, 0], 13**0.5)  # of -3, -1 and 4: (9 + 1 + 16) / 2
    assert spread[0, 1] == 0


def test_ratios_of_amplitudes() -> None:
    assert relative_db(0.1, 1.0) == pytest.approx(-20)
    assert relative_db(0.0, 1.0) == -np.inf


def settled(channels: tuple[int, ...], gain: float, level_db: float, cost: tuple[float, ...]) -> Settled:
    sampling = Sampling("tiny", {}, Settings(), cost, 0, Trace(np.zeros(1), np.zeros((0, 1))))
    fit = Fit(KNOWN, 1.0, 0.0, 4000.0, sampling=sampling)
    return Settled(Part(channels), fit, gain, 0.0, level_db, 0.0, 1.0, 1.0, 1)


def draw(parts: list[Settled], raws: list[list[float]]) -> Draw:
    return Draw(parts, [partial(read_array, np.array([raw])) for raw in raws])


HALF_DB = 20 * np.log10(0.5)


def test_draws_have_the_scale_of_the_method_and_the_level_of_the_softest() -> None:
    # Draw 2 was lowered to a half; its slope was estimated a little differently, which is not a difference of draws.
    draws = [
        draw([settled((1,), 2.0, 0.0, ()), settled((0,), 4.0, 0.0, ())], [[1.0, 2.0], [0.5, 0.5]]),
        draw([settled((1,), 1.01, HALF_DB, ()), settled((0,), 2.0, HALF_DB, ())], [[1.0, 3.0], [0.5, 1.0]]),
    ]
    read, level_db = levelled(draws)
    np.testing.assert_allclose(read(0, 2), [[[1.0, 1.0], [1.0, 2.0]], [[1.0, 2.0], [1.0, 3.0]]])
    np.testing.assert_allclose(read(1, 1), read(0, 2)[:, :, 1:])
    assert level_db == pytest.approx(HALF_DB)


def test_a_shift_is_that_of_the_first_draw_at_the_level_of_all() -> None:
    draws = [
        draw([replace(settled((0,), 2.0, 0.0, ()), shift=0.2)], [[1.0, 2.0]]),
        draw([replace(settled((0,), 1.0, HALF_DB, ()), shift=0.3)], [[1.0, 3.0]]),
    ]
    np.testing.assert_allclose(levelled(draws)[0](0, 2), [[[1.1, 2.1]], [[1.1, 3.1]]])
    np.testing.assert_allclose(levelled(draws[::-1])[0](0, 2), [[[1.3, 3.3]], [[1.3, 2.3]]])


def test_sampled_draws_have_one_level_of_what_was_not_distorted() -> None:
    # Both have a scale of their own, by which their gains make up for it; the second one was lowered besides.
    draws = [
        draw([settled((0,), 2.0, 0.0, (1.0,))], [[1.0, 2.0]]),
        draw([settled((0,), 0.5, HALF_DB, (1.0,))], [[2.0, 6.0]]),
    ]
    np.testing.assert_allclose(levelled(draws)[0](0, 2), [[[1.0, 2.0]], [[1.0, 3.0]]])


def test_draws_differ_where_samples_were_clipped_and_agree_where_they_were_not(prior: Prior) -> None:
    y = KNOWN(tones(0))[0].numpy()
    found = restore_draws(y, TINY_RATE, prior, samples=3, known=KNOWN, config=RestoreConfig(**LONG))
    assert (found.mean.shape, found.spread.shape, found.audio.shape) == (y.shape, y.shape, (3, *y.shape))
    assert found.mean.dtype == found.spread.dtype == np.float32
    lost, kept = np.abs(y) > 0.999 * LEVEL, np.abs(y) < 0.95 * LEVEL
    assert rms(found.spread[lost]) > 0.01 * rms(found.mean)
    assert rms(found.spread[kept]) < 1e-3 * rms(found.spread[lost])
    np.testing.assert_allclose(found.mean, found.audio.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.spread, found.audio.std(0, ddof=1), atol=1e-6)
    assert found.spread_db == pytest.approx(20 * np.log10(rms(found.spread) / rms(found.mean)))


def test_draws_follow_from_their_seeds_alone(prior: Prior) -> None:
    y = clipped(0.8, TINY_RATE, 2)
    config = RestoreConfig(seed=4, chunk_seconds=0.5, overlap_seconds=0.1, **QUICK)
    known = Distortion("hard_clip", {"threshold": 0.15})
    two, three, other = (
        restore_draws(y, TINY_RATE, prior, samples=n, known=known, config=config) for n, config in (
            (2, config), (3, config), (2, draw_config(config, 1))
        )
    )  # fmt: skip
    np.testing.assert_array_equal(two.audio, three.audio[:2])
    np.testing.assert_allclose(other.audio, three.audio[1:], rtol=1e-3, atol=1e-6)
    for number in range(2):
        alone = restore(y, TINY_RATE, prior, known=known, config=draw_config(config, number))
        np.testing.assert_allclose(two.audio[number], alone.audio, rtol=0.01, atol=1e-6)
    assert rms(two.audio[0] - two.audio[1]) > 1e-3 * rms(two.audio)
    together = restore_draws(
        y, TINY_RATE, prior, samples=2, known=known, config=RestoreConfig(seed=4, batch_size=4, chunk_seconds=0.5,
        overlap_seconds=0.1, **QUICK)
    )  # fmt: skip
    assert rms(together.audio - two.audio) < 1e-3 * rms(two.audio[0] - two.audio[1])


def test_draws_stay_below_full_scale_where_levels_are_automatic(prior: Prior) -> None:
    y = 6 * clipped(0.4, TINY_RATE)[0]
    known = Distortion("hard_clip", {"threshold": 0.9})
    found = restore_draws(
        y, TINY_RATE, prior, samples=2, known=known, config=RestoreConfig(**QUICK | {"level": "auto"})
    )
    assert np.abs(found.audio).max() <= 0.999 + 1e-6
    assert found.level_db < 0


def test_a_recording_that_nothing_happened_to_has_no_spread(prior: Prior) -> None:
    x = plucked(0.5, TINY_RATE)
    found = restore_draws(x, TINY_RATE, prior, samples=3, known=Identity(), config=RestoreConfig(**QUICK))
    assert not found.spread.any()
    np.testing.assert_allclose(found.mean, x, atol=1e-7)
    assert found.spread_db == -np.inf


def test_draws_of_the_sampler_have_one_scale(prior: Prior, fake: FakeSampler) -> None:
    # Every posterior sample is the observation, at a scale of its own.
    fake.answer = lambda y: y * (1 + len(fake.calls))
    y = plucked(0.5, TINY_RATE)
    found = restore_draws(y, TINY_RATE, prior, samples=3, config=RestoreConfig(level="unity"))
    assert rms(found.spread) < 1e-5 * rms(y)
    np.testing.assert_allclose(found.mean, y, atol=1e-5)


def test_progress_counts_draws(prior: Prior) -> None:
    steps: list[tuple[float, float, str]] = []
    config = RestoreConfig(**QUICK)
    known = Distortion("hard_clip", {"threshold": 0.15})
    restore_draws(
        clipped(0.3, TINY_RATE)[0], TINY_RATE, prior, samples=2, known=known, config=config,
        on_step=lambda *step: steps.append(step),
    )  # fmt: skip
    assert {phase.split(":")[0] for *_, phase in steps} == {"draw 1/2", "draw 2/2"}
    assert all(done <= total * (1 + 1e-9) for done, total, _ in steps)


@pytest.mark.parametrize(
    ("samples", "method", "said"),
    [
        (1, None, "samples=1: the spread is that of at least 2"),
        (2, "aspade", "method aspade gives the same every time"),
    ],
)
def test_draws_that_cannot_differ_are_refused(prior: Prior, samples: int, method: str | None, said: str) -> None:
    with pytest.raises(NldiffError, match=said):
        nldiff.restore_draws(clipped(0.3, TINY_RATE), TINY_RATE, prior, samples=samples, method=method)
