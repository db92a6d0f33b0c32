"""What every operator promises."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from helpers import OnAccelerator
from laplace import laplace
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.operators import (
    DISTORTIONS,
    LEARNABLE,
    AtRate,
    Chain,
    Distortion,
    Identity,
    Learnable,
    Operator,
    Rescaled,
    TabulatedCurve,
    Waveshaper,
    make_learnable,
    parse_operator,
)
from nldiff.operators.distortions import overdrive_static


def sources(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def learnable(name: str, parameter_sets: int = 2) -> Learnable:
    """A learnable operator in float64 whose parameter sets all differ."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        shaper = make_learnable(name, parameter_sets)
    finally:
        torch.set_default_dtype(before)
    shaper.reset(torch.zeros(parameter_sets, 1, dtype=torch.float64), sources(*range(parameter_sets)))
    (source,) = sources(100)
    with torch.no_grad():
        for parameter in shaper.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=source))
    return shaper


def folded_table() -> TabulatedCurve:
    grid = torch.linspace(-2, 2, 101, dtype=torch.float64)
    return TabulatedCurve(grid, torch.sin(3 * grid))


OPERATORS: dict[str, Callable[[], Operator]] = {
    **{name: lambda name=name: Distortion(name) for name in DISTORTIONS},  # type: ignore[misc]
    **{name: lambda name=name: learnable(name) for name in LEARNABLE},  # type: ignore[misc]
    "mixed": lambda: Distortion("hard_clip", {"mix": 0.3}),
    "table": folded_table,
    "at another rate": lambda: AtRate(Distortion("carbon_mic"), 8000, 22050),
    "rescaled": lambda: Rescaled(Distortion("carbon_mic"), 0.5, -2.0),
    "rescaled overdrive": lambda: Rescaled(Distortion("overdrive", {"pole": 0.9}), 3.0, 0.1),
    "rescaled ccr": lambda: Rescaled(learnable("ccr"), 0.3, 0.2),
    "chain": lambda: Chain([Distortion("soft_clip"), Distortion("full_wave")], 0.5),
    "chain of one": lambda: Chain([Distortion("half_wave")]),
    "chain with memory": lambda: Chain(
        [Distortion("overdrive", {"pole": 0.9}), Distortion("wavefold"), Distortion("overdrive", {"pole": 0.8})], 0.5
    ),
    "learnable chain": lambda: Chain(
        [Distortion("soft_clip"), Rescaled(learnable("ccr"), 0.5, 0.5), Distortion("overdrive"), learnable("sumtanh")],
        0.7,
    ),
}
operators = pytest.mark.parametrize("name", OPERATORS)


def audio(items: int, length: int, seed: int = 2) -> Tensor:
    return laplace(seed, length=items * length, rms=0.2).reshape(items, length)


@operators
def test_keeps_shape_and_type(name: str) -> None:
    operator, x = OPERATORS[name](), audio(4, 300)
    y = operator(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype == torch.float64
    assert y.isfinite().all()
    if isinstance(operator, nn.Module):
        operator.float()
    in_float32 = operator(x.float())
    assert in_float32.dtype == torch.float32
    torch.testing.assert_close(in_float32.double(), y, rtol=1e-3, atol=1e-4)


# the quantiser's backward pass is deliberately not its derivative; it has its own test
@pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"quantize"}))
def test_gradients_match_finite_differences(name: str) -> None:
    operator, x = OPERATORS[name](), audio(4, 6, seed=5).requires_grad_()
    assert torch.autograd.gradcheck(operator, (x,), eps=1e-7, atol=1e-5)
    parameters = operator.trainable()
    if parameters:
        # one direction in the space of the parameters
        (source,) = sources(6)
        directions = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in parameters]
        weights = audio(4, 6, seed=7)
        slopes = torch.autograd.grad((operator(x) * weights).sum(), parameters)
        values = []
        with torch.no_grad():
            for step in (-1e-6, 2e-6):
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(step * direction)
                values.append((operator(x) * weights).sum().item())
        expected = sum((s * d).sum().item() for s, d in zip(slopes, directions, strict=True))
        assert (values[1] - values[0]) / 2e-6 == pytest.approx(expected, rel=1e-4, abs=1e-7)


@operators
def test_prepared_evaluation_equals_forward_while_parameters_change(name: str) -> None:
    operator, x = OPERATORS[name](), audio(4, 50).requires_grad_()
    evaluate = operator.prepare(x)
    # that of the MLP is interpolated
    near = 1e-3 if name == "mlp" else 1e-12
    for _ in range(2):
        torch.testing.assert_close(evaluate(), operator(x), rtol=0, atol=near)
        parameters = operator.trainable()
        if parameters:
            found = torch.autograd.grad(evaluate().square().sum(), [x, *parameters], allow_unused=True)
            assert found[0] is None
            expected = torch.autograd.grad(operator(x).square().sum(), parameters)
            if name != "mlp":
                torch.testing.assert_close(found[1:], expected, rtol=1e-9, atol=1e-9)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.05)


@operators
@pytest.mark.parametrize("level", [0.06, 7.3])
def test_change_of_level(name: str, level: float) -> None:
    operator, x = OPERATORS[name](), audio(4, 50)
    other = operator.at_level(level)
    assert torch.equal(other(x), operator(x / level) * level)
    assert torch.equal(other.static(x), operator.static(x / level) * level)
    assert (other.parameter_sets, other.context, other.keeps_level) == (
        operator.parameter_sets,
        operator.context,
        operator.keeps_level,
    )
    assert len(other.trainable()) == len(operator.trainable())


# a device that stays at its rate, and a resampler that looks ahead, have their own test
at_the_rate_of_the_audio = pytest.mark.parametrize("name", sorted(set(OPERATORS) - {"at another rate"}))


@at_the_rate_of_the_audio
def test_change_of_rate(name: str) -> None:
    operator, x = OPERATORS[name](), audio(4, 50)
    if operator.context == 0:
        assert operator.at_rate(44100, 16000) is operator
    assert torch.equal(operator.at_rate(16000, 16000)(x), operator(x))
    double = operator.at_rate(8000, 16000)
    assert abs(double.context - 2 * operator.context) <= 2
    assert (double.parameter_sets, double.keeps_level) == (operator.parameter_sets, operator.keeps_level)
    assert [id(p) for p in double.trainable()] == [id(p) for p in operator.trainable()]
    torch.testing.assert_close(double.static(x), operator.static(x), rtol=0, atol=0)


@at_the_rate_of_the_audio
def test_output_depends_on_nothing_before_the_context(name: str) -> None:
    operator = OPERATORS[name]()
    changed, after = 50, operator.context + 20
    x = audio(4, changed + after)
    other = x.clone()
    other[:, 20:changed] += 0.3
    with torch.no_grad():
        difference = (operator(other) - operator(x)).abs()
    # nothing depends on the future, but for what transforms round
    assert difference[:, :20].max() <= 1e-12 * difference.max()
    later = difference[:, changed + operator.context :].max()
    if operator.context == 0:
        assert later == 0
    else:
        assert later <= 3e-3 * difference.max()  # 60 dB below what a filter makes of an impulse
        assert difference[:, changed:].max() > 1e-3 * difference.max()


@operators
def test_portrait_is_the_static_curve_of_every_parameter_set(name: str) -> None:
    operator, grid = OPERATORS[name](), torch.linspace(-1.2, 1.2, 31, dtype=torch.float64)
    portrait = operator.portrait(grid)
    assert torch.equal(portrait.inputs, grid)
    assert portrait.curve.shape == (operator.parameter_sets or 1, 31)
    assert not portrait.curve.requires_grad
    rows = grid.repeat(operator.parameter_sets or 1, 1)
    if operator.context == 0:
        assert torch.equal(portrait.curve, operator(rows))
    else:
        assert (portrait.curve - operator(rows)).abs().max() > 1e-3
    single = [operator.static(rows[:, i : i + 1]) for i in range(31)]  # elementwise
    torch.testing.assert_close(torch.cat(single, 1), portrait.curve, rtol=1e-12, atol=1e-12)


@operators
def test_item_alone_equals_item_in_batch(name: str) -> None:
    operator, x = OPERATORS[name](), audio(4, 100)
    y = operator(x)
    if operator.parameter_sets is None:
        for i in range(4):
            torch.testing.assert_close(operator(x[i : i + 1]), y[i : i + 1], rtol=0, atol=1e-14)
    else:  # one item of each group
        torch.testing.assert_close(operator(x[[0, 2]]), y[[0, 2]], rtol=0, atol=1e-12)
        torch.testing.assert_close(operator(x[[1, 3]]), y[[1, 3]], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in OPERATORS if isinstance(OPERATORS[name](), Distortion)])
def test_text_of_a_distortion(name: str) -> None:
    assert parse_operator(str(OPERATORS[name]())).build(None) == OPERATORS[name]()


@pytest.mark.parametrize("name", ["chain", "chain of one", "chain with memory"])
def test_text_of_a_chain(name: str) -> None:
    operator, x = OPERATORS[name](), audio(2, 50)
    read = parse_operator(str(operator)).build(None)
    assert str(read) == str(operator)
    assert torch.equal(read(x), operator(x))


@operators
def test_operators_without_parameters_ignore_a_reset(name: str) -> None:
    operator, x = OPERATORS[name](), audio(4, 20)
    if operator.trainable():
        assert operator.parameter_sets == 2
        operator.reset(x, sources(8, 9))
    else:
        assert operator.parameter_sets is None
        before = operator(x)
        operator.reset(x, [])
        assert torch.equal(operator(x), before)


@pytest.mark.parametrize("name", [*DISTORTIONS, *LEARNABLE])
def test_accelerators_need_no_float64(name: str) -> None:
    operator: Operator = Distortion(name) if name in DISTORTIONS else make_learnable(name, 1)
    x = laplace(500).float()[None]
    operator.reset(x, sources(0))
    torch.testing.assert_close(operator(x.as_subclass(OnAccelerator)).as_subclass(Tensor), operator(x))


def test_texts_of_operators_that_cannot_be_told_are_one_line() -> None:
    table = TabulatedCurve(torch.linspace(-1, 1, 4096), torch.linspace(-1, 1, 4096))
    clip = Distortion("hard_clip", {"threshold": 0.25})
    assert str(Chain([table, Identity()])) == "a table of 4096 points > Identity"
    assert str(Rescaled(clip, 2.0, -0.5)) == "hard_clip:threshold=0.25 (levels 2, -0.5)"
    assert str(AtRate(clip, 8000, 44100)) == "hard_clip:threshold=0.25 at 8000 Hz"
    assert [str(learnable(name)) for name in ("ccr", "wiener_hammerstein")] == ["CatmullRom", "WienerHammerstein"]


def test_rescaled_by_hand() -> None:
    # the clipper at 0.1 of a signal in units of 2, with outputs in units of -10
    operator = Rescaled(Distortion("hard_clip"), 2.0, -10.0)
    x = torch.tensor([[0.1, 0.4, -0.4]])
    torch.testing.assert_close(operator(x), torch.tensor([[-0.5, -1.0, 1.0]]))


def test_chain_by_hand() -> None:
    # |x| clipped to 0.1, a quarter of it beside three of the dry signal
    chain = Chain([Distortion("full_wave"), Distortion("hard_clip")], 0.25)
    torch.testing.assert_close(chain(torch.tensor([[-0.4, 0.04]])), torch.tensor([[-0.275, 0.04]]))
    assert Chain([chain, chain]).context == 0
    assert Chain([Distortion("overdrive"), chain, Distortion("overdrive")]).context == 2 * 1379
    assert not Chain([chain, Distortion("overdrive")]).keeps_level


def test_portrait_of_a_chain_with_memory_by_hand() -> None:
    x = torch.linspace(-0.5, 0.5, 11, dtype=torch.float64)
    chain = Chain([Distortion("overdrive"), Distortion("half_wave")], 0.5).at_level(2.0)
    expected = x / 2 + overdrive_static(x / 2, 20, 20).clamp(min=0)
    torch.testing.assert_close(chain.portrait(x).curve[0], expected, rtol=0, atol=1e-15)


def test_what_comes_before_the_first_trainable_operator_is_evaluated_once() -> None:
    calls = []

    class Counted(Operator):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(1)
            return x.clamp(-0.1, 0.1)

    shaper = learnable("ccr")
    evaluate = Chain([Counted(), shaper]).prepare(audio(4, 20))
    evaluate(), evaluate()
    assert len(calls) == 1
    evaluate = Chain([shaper, Counted()]).prepare(audio(4, 20))
    evaluate(), evaluate()
    assert len(calls) == 3


def test_parameters_of_the_parts_are_found() -> None:
    chain = OPERATORS["learnable chain"]()
    assert isinstance(chain, Chain)
    inner = chain.operators[1]
    assert isinstance(inner, Rescaled)
    assert isinstance(inner.operator, Waveshaper)
    assert isinstance(chain.operators[3], Waveshaper)
    expected = [*inner.operator.parameters(), *chain.operators[3].parameters()]
    assert [id(p) for p in chain.trainable()] == [id(p) for p in expected]
    inner.operator.requires_grad_(False)
    assert len(chain.trainable()) == 1
    chain.to(torch.float32)
    assert all(p.dtype == torch.float32 for p in chain.parameters())

    x = audio(2, 30).float()
    other = copy.deepcopy(chain)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other(x), chain(x))
    other.load_state_dict(chain.state_dict())
    assert torch.equal(other(x), chain(x))


def test_resetting_a_chain_resets_its_parts_in_order() -> None:
    y = audio(1, 20).float()
    first, second, third = (make_learnable(name, 1) for name in ("mlp", "ccr", "mlp"))
    Chain([Distortion("half_wave"), Rescaled(first, 1.0, 0.1), second, third]).reset(y, sources(5))
    expected, (source,) = [make_learnable("mlp", 1) for _ in range(2)], sources(5)
    for shaper in expected:
        shaper.reset(y, [source])
    for shaper, same in zip((first, third), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(shaper.parameters(), same.parameters(), strict=True))
    assert second(y).isfinite().all()


def test_a_rescaled_operator_is_reset_in_its_own_units() -> None:
    seen = []

    class Noted(Operator):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def reset(self, y: Tensor, sources: object) -> None:
            seen.append(y)

    y = audio(1, 20)
    Rescaled(Noted(), 3.0, 4.0).reset(y, [])
    assert torch.equal(seen[0], y / 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chain([]), "one or more operators"),
        (lambda: Chain([learnable("ccr", 1), learnable("ccr", 2)]), "same number of parameter sets"),
        (lambda: Chain([Distortion("half_wave")], 1.5), r"mix=1.5 is out of range \(0 to 1\)"),
        (lambda: Chain([Distortion("half_wave")], math.nan), "mix=nan is out of range"),
        (lambda: Rescaled(Distortion("half_wave"), 0.0, 1.0), "input_level=0.0: a finite number other than 0"),
        (lambda: Distortion("half_wave").at_level(math.inf), "level=inf"),
    ],
)
def test_wrong_combinations_are_named(make: Callable[[], Operator], message: str) -> None:
    with pytest.raises(NldiffError, match=message):
        make()


def test_a_device_at_another_rate_distorts_there() -> None:
    inner = Distortion("hard_clip", {"threshold": 0.3})
    device = AtRate(inner, 8000, 32000)
    seconds = torch.arange(8000, dtype=torch.float64) / 32000

    def tones(t: Tensor) -> Tensor:
        return 0.5 * torch.sin(2 * math.pi * 500 * t)[None] * torch.sin(math.pi * t / 0.25) ** 2

    y = device(tones(seconds))
    torch.testing.assert_close(y[:, ::4], inner(tones(seconds[::4])), rtol=0, atol=1e-3)
    assert y.abs().max() > 0.305  # overshoots between them
    early = tones(seconds)
    early[:, :200] += 0.1
    difference = (device(early) - y).abs()[0]
    assert difference[200 + device.context :].max() < 1e-3 * difference.max()
    assert device.at_rate(32000, 8000) is inner
    assert isinstance(other := device.at_rate(32000, 44100), AtRate)
    assert (other.rate, other.outer_rate) == (8000, 44100)
    for rates in ((0, 8000), (8000, 2_000_000), (8000.0, 16000)):
        with pytest.raises(NldiffError, match="a whole number from 1 to 1000000 expected"):
            AtRate(inner, *rates)


def test_filters_of_a_device_at_another_rate_are_those_of_its_rate() -> None:
    x = torch.sin(2 * math.pi * 1000 * torch.arange(24000, dtype=torch.float64) / 48000)[None]
    y = AtRate(Distortion("highpass", {"hz": 1000.0}), 16000, 48000)(x)
    inner = slice(4000, 20000)  # 333 periods and a third; away from the ends
    assert float(y[0, inner].std() / x[0, inner].std()) == pytest.approx(math.sqrt(0.5), abs=1e-3)
