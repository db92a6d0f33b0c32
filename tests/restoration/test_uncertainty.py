"""What to expect of a restoration, and the band around its curve."""

import math
from dataclasses import replace

import numpy as np
import pytest

from nldiff.restoration.estimation import Verdict
from nldiff.restoration.evidence import Binding, Judgement
from nldiff.restoration.uncertainty import band, expected_sdr, guessed_sdr

JUDGEMENT = Judgement(
    log_odds=9.0, predictability_gain=1.0, spread_gain=0.5, plateau=0.1, exact=0.6, interval=0.0, unknown=0.4,
    guessed=0.4, changed=0.3, explained_db=70.0,
)  # fmt: skip


class TestExpectedSdr:
    def test_by_hand(self) -> None:
        expected = expected_sdr("clipped", JUDGEMENT)
        assert expected is not None
        middle = 11.5 - 1.43 * 10 * math.log10(0.4) + 4.1 * math.log10(0.401) + 0.9 * math.log10(0.001)
        assert expected.middle == pytest.approx(middle)
        assert (expected.low, expected.high) == pytest.approx((middle - 9, middle + 9))

    def test_the_more_is_guessed_the_less_is_expected(self) -> None:
        judgements = [replace(JUDGEMENT, guessed=guessed) for guessed in (0.003, 0.03, 0.3)]
        found = [expected_sdr("filtered", judgement) for judgement in judgements]
        middles = [expected.middle for expected in found if expected]
        assert len(middles) == 3 and middles == sorted(middles, reverse=True)

    def test_is_finite_where_nothing_is_guessed(self) -> None:
        expected = expected_sdr("clipped", replace(JUDGEMENT, guessed=0.0, unknown=0.0, interval=-1e-17, exact=1.0))
        assert expected is not None and 20 < expected.middle < 50

    def test_signals_are_expected_to_be_as_good_as_the_judgement_of_them_says(self) -> None:
        bound = Binding(signal=None, exact=0.6, interval=0.0, unknown=0.4, guessed=0.4)  # type: ignore[arg-type]
        expected = expected_sdr("clipped", JUDGEMENT)
        assert expected is not None and guessed_sdr(bound) == pytest.approx(expected.middle)

    def test_nothing_is_said_of_what_was_sampled(self) -> None:
        assert expected_sdr("sampled", JUDGEMENT) is None

    def test_nothing_is_expected_of_what_is_not_believed(self) -> None:
        verdict = Verdict("distorted", "clipped", JUDGEMENT, {"clipped": 9.0}, unchanged=False)
        assert verdict.expected == expected_sdr("clipped", JUDGEMENT)
        assert replace(verdict, finding="nothing happened").expected is None
        assert replace(verdict, finding="unexplained", hypothesis="", judgement=None).expected is None


class TestBand:
    def test_of_a_straight_line_by_hand(self) -> None:
        inputs = np.array([-0.4, 0.0, 0.2])
        found = band(lambda x: 0.5 * x, inputs, "clipped", rms=0.2, unexplained=0.001)
        assert found is not None
        width = 0.5 * 0.022 * (np.abs(inputs) + 0.05) + 0.001
        np.testing.assert_allclose(found[0], 0.5 * inputs - width)
        np.testing.assert_allclose(found[1], 0.5 * inputs + width)

    def test_is_narrow_on_a_plateau_and_wide_before_its_knee(self) -> None:
        found = band(lambda x: np.clip(x, -0.1, 0.1), np.array([0.0999, 0.2]), "bent", rms=0.1, unexplained=0.0)
        assert found is not None
        low, high = found
        assert (low[1], high[1]) == (0.1, 0.1)
        assert low[0] < 0.0999 < high[0] == 0.1

    def test_holds_the_curve_that_rises_and_falls(self) -> None:
        inputs = np.linspace(-1, 1, 101)
        found = band(np.sin, inputs * 9, "folded", rms=3.0, unexplained=0.0)
        assert found is not None
        assert np.all(found[0] <= np.sin(inputs * 9)) and np.all(np.sin(inputs * 9) <= found[1])

    @pytest.mark.parametrize("hypothesis", ["sampled", "filtered", "overdriven"])
    def test_is_said_of_no_other_curve(self, hypothesis: str) -> None:
        assert band(np.sin, np.zeros(3), hypothesis, 1.0, 0.0) is None
