"""A short part of the fuzzing, with fixed seeds."""

from pathlib import Path

import pytest
from fuzz import KINDS, Inputs, attempt


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_used_or_refused_in_one_line(kind: str, inputs: Inputs) -> None:
    outcomes = [attempt(getattr(inputs, kind), seed) for seed in range(60)]
    assert "refused" in outcomes
    assert set(outcomes) <= {"used", "refused"}


def test_a_traceback_and_a_hang_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(seed: int) -> None:
        raise KeyError(seed)

    def endless(seed: int) -> None:
        while True:
            pass

    monkeypatch.setattr("fuzz.LIMIT", 0.05)
    assert "KeyError: 7" in attempt(wrong, 7)
    assert attempt(endless, 7) == "hang"
    assert attempt(lambda seed: None, 7) == "used"
