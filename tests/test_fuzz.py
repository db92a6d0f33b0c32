"""A short part of the fuzzing, with fixed seeds."""

import time
from pathlib import Path

import pytest
from fuzz import KINDS, Inputs, attempt


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_used_or_refused_in_one_line(kind: str, inputs: Inputs) -> None:
    outcomes = [attempt(getattr(inputs, kind), seed) for seed in range(20)]
    assert [outcome for outcome in outcomes if outcome not in ("used", "refused")] == []
    assert "refused" in outcomes


def test_a_traceback_and_a_hang_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(seed: int) -> None:
        raise KeyError(seed)

    def endless(seed: int) -> None:
        while True:
            pass

    def waiting(seed: int) -> None:
        time.sleep(60)

    monkeypatch.setattr("fuzz.LIMIT", 0.05)
    monkeypatch.setattr("fuzz.PATIENCE", 0.2)
    assert "KeyError: 7" in attempt(wrong, 7)
    assert attempt(endless, 7) == "hang"
    assert attempt(waiting, 7) == "hang"
    assert attempt(lambda seed: None, 7) == "used"
