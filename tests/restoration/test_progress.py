from concurrent.futures import ThreadPoolExecutor

import pytest

from nldiff.restoration.progress import Progress


class Clock:
    """Seconds that pass only where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Step = tuple[float, float, str]


def run(plan: dict[str, tuple[int, float, str | None]], truth: dict[str, float], first: float = 1.0) -> list[Step]:
    """Steps of a restoration whose phases take what `truth` says for a unit, the very first one `first` times that."""
    clock, seen = Clock(), list[Step]()
    progress = Progress(lambda *step: seen.append(step), clock)
    for name, (units, seconds, like) in plan.items():
        progress.expect(name, units, seconds, like)
    for name, (units, _, _) in plan.items():
        for _ in range(units):
            clock.now += truth[name] * (1 if seen else first)
            progress.advance(name)
    progress.finish()
    return seen


PLANS: dict[str, tuple[dict[str, tuple[int, float, str | None]], dict[str, float]]] = {
    "blind, on a machine as planned": (
        {"sampling": (40, 0.3, None), "fitting": (15, 0.7, None), "refining": (9, 2.0, "fitting")},
        {"sampling": 0.3, "fitting": 0.7, "refining": 2.0},
    ),
    "a network twice as slow": (
        {"sampling": (40, 0.3, None), "fitting": (15, 0.4, None), "refining": (2, 1.0, "fitting")},
        {"sampling": 0.6, "fitting": 0.4, "refining": 1.0},
    ),
    "a known curve on a machine four times as slow": (
        {"fitting": (6, 0.5, None), "refining": (60, 1.5, "fitting")},
        {"fitting": 2.0, "refining": 6.0},
    ),
    "chunks alone, nothing known before": ({"restoring": (30, 0.0, None)}, {"restoring": 3.0}),
}


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("first", [1.0, 5.0])
def test_the_remaining_time_is_near_the_truth(case: str, first: float) -> None:
    seen = run(*PLANS[case], first)
    end = seen[-1][0]
    for share in (0.25, 0.5, 0.75):
        done, total, _ = next(step for step in seen if step[0] >= share * end)
        assert total - done == pytest.approx(end - done, rel=0.3)


def test_time_done_and_names_by_hand() -> None:
    plan: dict[str, tuple[int, float, str | None]] = {"a": (2, 1.0, None), "b": (1, 3.0, "a"), "c": (1, 4.0, None)}
    assert run(plan, {"a": 2.0, "b": 5.0, "c": 1.0}) == [
        (2, 2 + 2 + 6 + 4, "a 1/2"),  # b is like a, which takes twice as long as planned
        (4, 4 + 6 + 4, "a 2/2"),
        (9, 9 + 4, "b"),
        (10, 10, "c"),
        (10, 10, "c"),
    ]


def test_more_and_less_than_planned() -> None:
    clock, seen = Clock(), list[Step]()
    progress = Progress(lambda *step: seen.append(step), clock)
    progress.expect("a", 1, 1.0)
    progress.expect("b", 10, 1.0)
    for _ in range(2):
        clock.now += 1
        progress.advance("a")
    clock.now += 1
    progress.advance("b")
    progress.close()  # b needed one only
    progress.expect("c", 2, 1.0)
    clock.now += 0.5
    progress.advance("c", 0.5)
    progress.finish()
    assert seen == [
        (1, 11, "a"), (2, 12, "a 2/2"), (3, 12, "b 1/10"), (3.5, 5, "c 1/2"), (3.5, 3.5, "c"),
    ]  # fmt: skip


def test_only_its_own_thread_is_told() -> None:
    clock, seen = Clock(), list[Step]()
    progress = Progress(lambda *step: seen.append(step), clock)
    progress.expect("a", 3, 1.0)
    clock.now += 1
    with ThreadPoolExecutor() as pool:
        pool.submit(progress.advance, "a").result()
    assert seen == []
    clock.now += 1
    progress.advance("a")
    assert seen == [(2, 3, "a 2/3")]
