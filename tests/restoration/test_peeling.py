import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, plucked

import nldiff
from nldiff.errors import NldiffError
from nldiff.metrics.sdr import si_sdr
from nldiff.operators import Chain, Distortion, Identity, Operator, parse_operator
from nldiff.operators.filters import Inversion
from nldiff.priors import Prior
from nldiff.restoration.peeling import split, undone
from nldiff.restoration.settings import RestoreConfig
from nldiff.sound import recording as recordings
from nldiff.sound.recording import Recording

REFINED = {"name": "auto", "iterations": 40, "windows": [512]}


def built(text: str) -> Operator:
    return parse_operator(text).build(None, TINY_RATE)


def inversion(operator: Operator) -> Inversion:
    found = operator.inversion()
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "inner", "after"),
    [
        ("hard_clip", "hard_clip", ""),
        ("hard_clip > highpass", "hard_clip", "highpass"),
        ("lowpass > hard_clip > highpass > gain", "lowpass > hard_clip", "highpass > gain"),
        ("hard_clip > overdrive > peak", "hard_clip", "overdrive > peak"),
        ("highpass > hard_clip", "highpass > hard_clip", ""),
        ("hard_clip > highpass; mix=0.5", "hard_clip > highpass", ""),
        ("hard_clip > highpass:mix=0.5", "hard_clip > highpass", ""),
    ],
)
def test_split_takes_off_what_can_be_undone(text: str, inner: str, after: str) -> None:
    first, rest = split(built(text))
    assert [name.split(":")[0] for name in str(first).split("; ")[0].split(" > ")] == inner.split(" > ")
    assert (
        [name.split(":")[0] for name in str(rest).split(" > ")] == after.split(" > ")
        if after
        else isinstance(rest, Identity)
    )
    whole = built("overdrive > highpass")
    assert isinstance(split(whole)[0], Identity)
    assert split(whole)[1] is whole


@pytest.mark.parametrize("text", ["highpass:hz=40", "overdrive:gain_db=30 > peak:hz=500,gain_db=-6"])
def test_a_recording_is_undone_in_blocks_wherever_it_is_read(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(recordings, "_BLOCK", 1000)
    x = np.stack([plucked(0.7, TINY_RATE, seed) for seed in (0, 1)])
    operator = built(text)
    observed = Recording.from_array(operator(torch.from_numpy(x).double()).numpy().astype(np.float32), TINY_RATE)
    before = undone(observed, inversion(operator))
    for start, frames in [(0, 5600), (0, 10), (999, 2), (1000, 1000), (2345, 3000), (5590, 10), (5590, 100)]:
        np.testing.assert_allclose(before.read(start, frames), x[:, start : start + frames], atol=2e-5)
    assert (before.frames, before.channels, before.sample_rate) == (5600, 2, TINY_RATE)


def test_a_recording_that_begins_in_the_middle_loses_its_constant() -> None:
    x = plucked(1.0, TINY_RATE)[None]
    x -= x.mean()
    y = built("highpass:hz=30")(torch.from_numpy(x).double()).numpy()[:, 2000:].astype(np.float32)
    expected = x[:, 2000:] - x[:, 2000:].mean()
    plain, centred = (
        undone(Recording.from_array(y, TINY_RATE), inversion(built("highpass:hz=30")), centred).read(0, 6000)
        for centred in (False, True)
    )
    assert np.abs(plain - expected).max() > 1e-3
    np.testing.assert_allclose(centred, expected, atol=2e-5)


@pytest.mark.parametrize("after", ["highpass:hz=80", "low_shelf:hz=200,gain_db=-6 > gain:gain_db=-3"])
def test_a_known_clipper_before_filters_is_restored_as_without_them(
    prior: Prior, fake: FakeSampler, after: str
) -> None:
    x = plucked(0.8, TINY_RATE)
    clean = torch.from_numpy(x)[None]
    alone, chain = built("hard_clip:threshold=0.15"), built(f"hard_clip:threshold=0.15 > {after}")
    config = RestoreConfig(refinement=REFINED)
    plain, filtered = (
        nldiff.restore(known(clean)[0].numpy(), TINY_RATE, prior, known=known, config=config)
        for known in (alone, chain)
    )
    scores = [si_sdr(x, result.audio) for result in (plain, filtered)]
    assert scores[1] > scores[0] - 0.2
    assert si_sdr(x, chain(clean)[0].numpy()) < scores[1] - 2
    assert filtered.explained_db > 30
    assert fake.calls == []
    # the curve is that of the clipper, from the restored signal on
    level = filtered.curve(np.array([10.0]))[0]
    assert level == pytest.approx(0.15 * (10 ** (-3 / 20) if "gain" in after else 1), rel=1e-3)


def test_a_known_overdrive_is_undone_exactly_and_without_sampling(prior: Prior, fake: FakeSampler) -> None:
    x = 0.5 * plucked(0.8, TINY_RATE)
    known = Distortion("overdrive", {"gain_db": 35})
    y = known(torch.from_numpy(x)[None])[0].numpy()
    config = RestoreConfig(refinement=REFINED)
    result = nldiff.restore(y, TINY_RATE, prior, known=known, config=config)
    assert si_sdr(x, y) < 10
    assert si_sdr(x, result.audio) > 60
    assert result.explained_db > 60
    assert fake.calls == []


def test_without_refinement_all_of_a_known_chain_is_sampled(prior: Prior, fake: FakeSampler) -> None:
    y = plucked(0.3, TINY_RATE)
    nldiff.restore(y, TINY_RATE, prior, known=built("hard_clip:threshold=0.15 > highpass"))
    assert [type(call["operator"].operator) for call in fake.calls] == [Chain]


def test_a_device_that_was_told_another_rate_is_brought_to_that_of_the_recording(
    prior: Prior, fake: FakeSampler
) -> None:
    x = plucked(0.5, TINY_RATE)
    y = Distortion("peak", {"hz": 400, "gain_db": 9, "q": 2, "rate": TINY_RATE})(torch.from_numpy(x)).numpy()
    known = Distortion("peak", {"hz": 400, "gain_db": 9, "q": 2, "rate": 44100})
    result = nldiff.restore(y, TINY_RATE, prior, known=known, config=RestoreConfig(refinement={"name": "auto"}))
    assert si_sdr(x, result.audio) > 60
    assert result.known is not None
    assert result.known.endswith("rate=8000.0")
    mixed = Chain([known, Distortion("highpass", {"rate": 16000})])
    with pytest.raises(NldiffError, match="for 16000 and 44100 Hz: one rate expected"):
        nldiff.restore(y, TINY_RATE, prior, known=mixed)
