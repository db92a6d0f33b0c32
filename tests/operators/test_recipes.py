import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from laplace import laplace
from torch import Tensor

from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, Chain, Distortion, input_sdr, parse_operator
from nldiff.operators.known import DistortionSpec, Memory, Parameter

names = pytest.mark.parametrize("name", sorted(DISTORTIONS))


@names
@given(data=st.data())
def test_text_round_trip(name: str, data: st.DataObject) -> None:
    params = {
        key: data.draw(st.floats(parameter.low, parameter.high))
        for key, parameter in DISTORTIONS[name].parameters.items()
    }
    distortion = Distortion(name, params | {"mix": data.draw(st.floats(0, 1))})
    recipe = parse_operator(str(distortion))
    assert recipe.build(None) == distortion
    assert not recipe.needs_clean


def test_text_by_hand() -> None:
    assert str(Distortion("hard_clip", {"threshold": 0.25})) == "hard_clip:threshold=0.25"
    assert str(Distortion("carbon_mic")) == "carbon_mic:asymmetry=0.5,gain=2.0"
    assert str(Distortion("half_wave")) == "half_wave"
    assert str(Distortion("half_wave", {"mix": 0.5})) == "half_wave:mix=0.5"
    assert str(Distortion("hard_clip", {"mix": 0.5, "threshold": 0.25})) == "hard_clip:threshold=0.25,mix=0.5"
    assert str(Distortion("half_wave", {"mix": 1.0})) == "half_wave"  # all wet is the distortion itself
    assert Distortion("half_wave", {"mix": 1.0}) == Distortion("half_wave")
    assert parse_operator(" soft_clip_r:sdr=3, hardness = 0.2").parts == (("soft_clip_r", {"sdr": 3, "hardness": 0.2}),)
    assert parse_operator("hard_clip:sdr=3,mix=0.7").parts == (("hard_clip", {"sdr": 3.0, "mix": 0.7}),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip", "unknown distortion 'clip': known are hard_clip, asymmetric_clip"),
        ("", "unknown distortion ''"),
        ("hard_clip:gain=1", "'hard_clip' has no parameter 'gain': known are threshold, mix$"),
        ("half_wave:gain=1", "'half_wave' has no parameter 'gain': known are mix$"),
        ("half_wave:mix=1.1", "'half_wave': mix=1.1 is out of range .0 to 1."),
        ("overdrive_static:colour=-1", "colour=-1 is out of range .0 to 100."),
        ("hard_clip:threshold=loud", "threshold=loud is not a number"),
        ("hard_clip:threshold=-1", "threshold=-1 is out of range"),
        ("hard_clip:threshold=nan", "threshold=nan is out of range"),
        ("soft_clip_r:hardness=1.5", "hardness=1.5 is out of range .0 to 1."),
        ("hard_clip:0.1", "'0.1' is not of the form parameter=value"),
        ("hard_clip:threshold=0.1,", "not of the form"),
        ("hard_clip:threshold=0.1,threshold=0.2", "'threshold' is given twice"),
        ("hard_clip:threshold=0.1,sdr=3", "either sdr or threshold"),
        ("half_wave:sdr=3", "'half_wave' cannot be calibrated"),
        ("hard_clip:sdr=inf", "sdr=inf is not a finite number"),
        ("overdrive:drive=3", "'overdrive' has no parameter 'drive': known are gain_db, colour, pole, mix$"),
        ("overdrive:gain_db=-1", r"^distortion 'overdrive': gain_db=-1 is out of range \(0 to 100\)$"),
        ("overdrive:gain_db=nan", "gain_db=nan is out of range"),
        ("overdrive:sdr=3", "'overdrive' cannot be calibrated"),
        ("hard_clip >", "unknown distortion ''"),
        ("half_wave > clip", "unknown distortion 'clip'"),
        ("half_wave;", "'; mix=value' expected at the end of a chain"),
        ("half_wave; sdr=3", "'; mix=value' expected at the end of a chain"),
        ("half_wave; mix=0.5,sdr=3", "'; mix=value' expected at the end of a chain"),
        ("half_wave; mix=0.5 > full_wave", "mix=0.5 > full_wave is not a number"),
        ("half_wave; mix=1.5", r"mix=1.5 is out of range \(0 to 1\)"),
        ("half\nwave", "unknown distortion 'half wave'"),
        ("half_wave:a\n=\n1", "has no parameter 'a'"),
        ("hard_clip:threshold=\x1b", "is not a number"),
    ],
)
def test_parse_errors(text: str, message: str) -> None:
    with pytest.raises(NldiffError, match=message) as error:
        parse_operator(text)
    assert "\n" not in str(error.value)


TOKENS = [
    *DISTORTIONS,
    "sdr",
    "threshold",
    "mix",
    "gain_db",
    "=",
    "=",
    ",",
    ":",
    ":",
    ">",
    ";",
    "\n",
    " ",
    "3",
    "0.5",
    "nan",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(TOKENS), max_size=12).map("".join)))
def test_any_text_is_a_recipe_or_one_line_of_error(text: str) -> None:
    try:
        recipe = parse_operator(text)
    except NldiffError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert recipe.text == text
    assert all(part.name in DISTORTIONS for part in recipe.parts)
    if not recipe.needs_clean:
        built = recipe.build(None)
        x = laplace(0, length=50)[None]
        assert torch.equal(parse_operator(str(built)).build(None)(x), built(x))


def test_a_chain_is_read_and_built() -> None:
    recipe = parse_operator("hard_clip:threshold=0.1>overdrive:gain_db=20 ; mix=0.5")
    assert recipe.family == "hard_clip > overdrive"
    assert recipe.level == (None, "")
    assert recipe.mix == 0.5
    chain = recipe.build(None)
    assert isinstance(chain, Chain)
    assert str(chain) == "hard_clip:threshold=0.1 > overdrive:gain_db=20.0,colour=20.0,pole=0.995; mix=0.5"
    assert (chain.context, chain.keeps_level) == (1379, False)
    x = laplace(1)
    wet = Distortion("overdrive")(x.clamp(-0.1, 0.1))
    torch.testing.assert_close(chain(x), 0.5 * wet + 0.5 * x, rtol=0, atol=1e-15)
    # round one distortion, the dry path is the parameter of the same name
    one = parse_operator("half_wave; mix=0.25").build(None)
    torch.testing.assert_close(one(x), Distortion("half_wave", {"mix": 0.25})(x), rtol=0, atol=1e-15)


def test_an_sdr_is_that_of_the_signal_that_enters_the_part() -> None:
    x = laplace(2).float().reshape(2, -1)
    single = parse_operator("hard_clip:sdr=3").build(x)
    assert isinstance(single, Distortion)
    assert input_sdr(x, single(x)) == pytest.approx(3, abs=1e-3)
    recipe = parse_operator("half_wave > soft_clip:sdr=5 > overdrive:gain_db=10; mix=0.5")
    assert recipe.needs_clean
    chain = recipe.build(x)
    assert isinstance(chain, Chain)
    entering = x.clamp(min=0)
    assert input_sdr(entering, chain.operators[1](entering)) == pytest.approx(5, abs=1e-3)
    with pytest.raises(NldiffError, match=r"^hard_clip:sdr=3: parameters expected, an sdr cannot be computed without"):
        parse_operator("hard_clip:sdr=3").build(None)


def test_levels_are_read_from_the_text() -> None:
    assert parse_operator("hard_clip:sdr=3").level == (3.0, "input SDR")
    assert parse_operator("amplified_clip:gain_db=27.5").level == (27.5, "gain")
    assert parse_operator("overdrive:gain_db=35,colour=10").level == (35.0, "gain")
    assert parse_operator("quantize:step=0.125").level == (None, "")
    assert parse_operator("overdrive").level == (None, "")


# ------------------------------------------------------------ a new distortion: a function and an entry of the table


def halve_loud(x: Tensor, threshold: float) -> Tensor:
    return torch.where(x.abs() > threshold, x / 2, x)


def delayed_clip(x: Tensor, threshold: float, delay: float) -> Tensor:
    """Clip, and add half of the clipped signal some samples later."""
    clipped, shift = x.clamp(-threshold, threshold), round(delay)
    return clipped + 0.5 * torch.nn.functional.pad(clipped, (shift, 0))[..., : x.shape[-1]]


@pytest.fixture
def additions(monkeypatch: pytest.MonkeyPatch) -> None:
    threshold = Parameter(0.1, 0.0, 10.0)
    monkeypatch.setitem(DISTORTIONS, "halve_loud", DistortionSpec(halve_loud, {"threshold": threshold}))
    monkeypatch.setitem(
        DISTORTIONS,
        "delayed_clip",
        DistortionSpec(
            delayed_clip,
            {"threshold": threshold, "delay": Parameter(3.0, 1.0, 100.0)},
            "threshold",
            memory=Memory(
                context=lambda threshold, delay: round(delay),
                static=lambda x, threshold, delay: x.clamp(-threshold, threshold),
                at_rate=lambda ratio, threshold, delay: {"delay": delay / ratio},
            ),
        ),
    )


@pytest.mark.usefixtures("additions")
def test_a_new_curve_takes_two_places() -> None:
    recipe = parse_operator("halve_loud:threshold=0.2,mix=0.5 > half_wave")
    operator = recipe.build(None)
    x = torch.tensor([[-1.0, 0.1, 1.0]])
    torch.testing.assert_close(operator(x), torch.tensor([[0.0, 0.1, 0.75]]))
    torch.testing.assert_close(operator.portrait(x[0]).curve, torch.tensor([[0.0, 0.1, 0.75]]))
    assert parse_operator(str(operator)).family == "halve_loud > half_wave"
    assert operator.context == 0
    with pytest.raises(NldiffError, match="'halve_loud' cannot be calibrated"):
        parse_operator("halve_loud:sdr=3")


@pytest.mark.usefixtures("additions")
def test_a_new_distortion_with_memory_takes_two_places() -> None:
    x = laplace(3)[None]
    operator = parse_operator("delayed_clip:sdr=8,delay=2,mix=0.5").build(x)
    assert input_sdr(x, operator(x)) == pytest.approx(8, abs=1e-3)
    fixed = parse_operator("delayed_clip:threshold=0.2,delay=2").build(None)
    torch.testing.assert_close(fixed(torch.tensor([[1.0, 0.1, 0.0, 0.0]])), torch.tensor([[0.2, 0.1, 0.1, 0.05]]))
    grid = torch.tensor([-1.0, 0.1, 1.0])
    torch.testing.assert_close(fixed.portrait(grid).curve, torch.tensor([[-0.2, 0.1, 0.2]]))
    assert fixed.context == 2
    assert str(fixed.at_rate(8000, 16000)) == "delayed_clip:threshold=0.2,delay=4.0"
    assert fixed.at_rate(8000, 16000).context == 4
