"""Which shipped weights of a network suit a recording."""

import numpy as np

from nldiff.baselines.clipping import clipping_levels
from nldiff.baselines.saved import SHIPPED
from nldiff.errors import NldiffError
from nldiff.sound.recording import Recording

# Hz -> distortion -> end of the name of the weights that were trained for it at that rate.
_TRAINED = {
    44100: {"hard_clip": "hardclip", "soft_clip": "softclip", "soft_clip_r": "softclip"},
    16000: {
        "hard_clip": "hardclip-16k",
        "amplified_clip": "hardclip-16k",
        "overdrive": "overdrive",
        "overdrive_static": "overdrive",
    },
}


def shipped_weights(network: str, family: str, sample_rate: int) -> str | None:
    """Shipped weights of a network for a distortion and a rate (Hz) by name; None where there are none."""
    name = f"{network}-{_TRAINED.get(sample_rate, {}).get(family)}"
    return name if name in SHIPPED else None


def choose_weights(network: str, recording: Recording, family: str | None = None) -> str:
    """Shipped weights of a network for a recording, of the lowest rate that keeps its band if there are any.

    They were trained for the distortion `family`. Where it is not known, they are those for hard clipping if samples
    stay at an extreme value (`clipping_levels`), else those for softer distortions.

    Raises:
        NldiffError: none are shipped.
    """
    if family:
        families: tuple[str, ...] = (family,)
    else:
        clipped = np.isfinite(clipping_levels(recording)).any()
        families = ("hard_clip",) if clipped else ("soft_clip", "overdrive")
    for rate in sorted(_TRAINED, key=lambda rate: (rate < recording.sample_rate, abs(rate - recording.sample_rate))):
        for family in families:
            if name := shipped_weights(network, family, rate):
                return name
    raise NldiffError(f"no weights of {network} for {' or '.join(families)} are shipped: name a file of weights")
