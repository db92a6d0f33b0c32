import numpy as np
import pytest
from helpers import TINY_RATE, clipped, plucked
from numpy.typing import NDArray

from nldiff.baselines.choice import choose_weights, shipped_weights
from nldiff.baselines.networks import NETWORKS
from nldiff.baselines.saved import SHIPPED, load_baseline
from nldiff.errors import NldiffError
from nldiff.sound.recording import Recording

WEIGHTS = (
    "demucs-hardclip", "demucs-softclip", "demucs-overdrive", "demucs-hardclip-16k", "umx-overdrive", "umx-hardclip-16k"
)  # fmt: skip


def recording(samples: NDArray[np.float32], rate: int = TINY_RATE) -> Recording:
    return Recording.from_array(samples, rate, "take.wav")


CHOICES = [
    ("demucs", 44100, "clipped", None, "demucs-hardclip"),
    ("demucs", 96000, "clipped", None, "demucs-hardclip"),
    ("demucs", 22050, "soft", None, "demucs-softclip"),
    ("demucs", 16000, "clipped", None, "demucs-hardclip-16k"),
    ("demucs", 8000, "soft", None, "demucs-overdrive"),
    ("umx", 44100, "clipped", None, "umx-hardclip-16k"),
    ("umx", 48000, "soft", None, "umx-overdrive"),
    ("demucs", 44100, "clipped", "soft_clip", "demucs-softclip"),
    ("demucs", 44100, "soft", "overdrive_static", "demucs-overdrive"),
]


@pytest.mark.parametrize(("network", "rate", "kind", "known", "expected"), CHOICES)
def test_weights_are_chosen_for_the_recording(
    monkeypatch: pytest.MonkeyPatch, network: str, rate: int, kind: str, known: str | None, expected: str
) -> None:
    monkeypatch.setattr("nldiff.baselines.choice.SHIPPED", WEIGHTS)
    x = plucked(0.3, rate)[None]
    y = x.clip(-0.2, 0.2) if kind == "clipped" else np.tanh(4 * x)
    assert choose_weights(network, recording(y, rate), known) == expected


def test_all_shipped_weights_are_used_at_the_rate_that_they_were_trained_at() -> None:
    found = {
        (name, rate)
        for network in NETWORKS
        for rate in (16000, 44100)
        for family in ("hard_clip", "soft_clip", "overdrive")
        if (name := shipped_weights(network, family, rate))
    }
    assert {name for name, _ in found} == set(SHIPPED)
    assert found == {(name, load_baseline(name).sample_rate) for name in SHIPPED}


def test_weights_that_are_not_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nldiff.baselines.choice.SHIPPED", WEIGHTS)
    source = recording(clipped(0.3, TINY_RATE))
    with pytest.raises(NldiffError, match="no weights of crafx for hard_clip are shipped"):
        choose_weights("crafx", source)
    with pytest.raises(NldiffError, match="no weights of umx for half_wave are shipped"):
        choose_weights("umx", source, "half_wave")
