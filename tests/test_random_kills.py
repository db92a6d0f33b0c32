"""A few random kills, and that what they must not leave is found."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from random_kills import KINDS, SIGNALS, Kind, ended_at_random

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("kind", ["restore", pytest.param("train", marks=pytest.mark.slow)])
def test_a_command_that_is_ended_at_random_moments_leaves_nothing_and_ends_as_ever(kind: str) -> None:
    outcomes = ended_at_random(KINDS[kind], len(SIGNALS), seed=1)
    assert sum(outcomes.values()) == len(SIGNALS)


class Careless(Kind):
    """Writes two files that belong together, one after the other, or leaves something behind."""

    leaves = False

    def arguments(self) -> list[str]:
        self.out.mkdir(exist_ok=True)
        if self.leaves:
            (self.out / ".nldiff-left").mkdir(exist_ok=True)
        for name in "ab":
            (self.out / name).write_text("new")
        return ["--version"]

    def check(self, before: Mapping[str, object], final: Mapping[str, object]) -> None:
        assert self.content() in ({}, before, final), "mixed"


def test_what_is_left_behind_and_what_is_mixed_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Careless, "leaves", True)
    with pytest.raises(AssertionError, match="left behind"):
        ended_at_random(Careless, 1, seed=0)
    monkeypatch.setattr(Careless, "leaves", False)
    careless = Careless(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("new")
    with pytest.raises(AssertionError, match="mixed"):
        careless.check({}, {"a": b"new", "b": b"new"})
