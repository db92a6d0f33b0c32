"""What callers of the library hand over: audio, rates, known operators and priors, checked and converted."""

import logging
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nldiff.curves import Curve
from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.operators import DISTORTIONS, Operator, parse_operator
from nldiff.priors import Prior
from nldiff.priors.choice import load_candidates
from nldiff.restoration.methods import Method
from nldiff.restoration.settings import RestoreConfig

PriorLike: TypeAlias = str | Path | Prior | Sequence[Prior]
"""A shipped prior by name, a file, a loaded prior, "auto", or several loaded ones to choose from."""

KnownOperator: TypeAlias = Operator | Curve | str | None
"""An operator, a curve, or the text of `parse_operator`."""

# (offset, full scale) of whole numbers in audio files as SciPy and others read them.
_FULL_SCALE = {"uint8": (128.0, 128.0), "int16": (0.0, 2.0**15), "int32": (0.0, 2.0**31)}
_RATES = (1000, 1_000_000)
_log = logging.getLogger(__name__)


def checked_audio(audio: object) -> np.ndarray:
    """Audio as float32, shape unchanged; uint8, int16 and int32 samples are divided by full scale.

    Raises:
        NldiffError: no numbers, complex or other whole numbers, another shape than [time] or [channels, time].
    """
    try:
        samples = np.asarray(audio)
    except ValueError as error:
        raise NldiffError("audio is no array: [time] or [channels, time] expected") from error
    if samples.dtype.name in _FULL_SCALE:
        offset, full_scale = _FULL_SCALE[samples.dtype.name]
        samples = (samples.astype(np.float64) - offset) / full_scale
    if samples.dtype.kind != "f":
        raise NldiffError(f"audio of type {samples.dtype}: floats, or {', '.join(_FULL_SCALE)}, expected")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise NldiffError(f"audio of shape {list(samples.shape)}: [time] or [channels, time] expected")
    with np.errstate(over="ignore"):  # infinite samples are refused later, by name
        return samples.astype(np.float32)


def checked_rate(sample_rate: object) -> int:
    """A sampling rate in Hz.

    Raises:
        NldiffError: no whole number from 1000 to 1 000 000.
    """
    number = isinstance(sample_rate, int | float | np.integer | np.floating) and not isinstance(sample_rate, bool)
    value = float(sample_rate) if number else math.nan  # type: ignore[arg-type]
    if not (value.is_integer() and _RATES[0] <= value <= _RATES[1]):
        raise NldiffError(f"sample_rate={sample_rate!r}: a whole number from {_RATES[0]} to {_RATES[1]} (Hz) expected")
    return int(value)


def checked_operator(known: object) -> Operator | None:
    """A known operator; texts are parsed, curves become operators.

    Raises:
        NldiffError: as `told_operator`, or something else.
    """
    if known is None or isinstance(known, Operator):
        return known
    if isinstance(known, str):
        return told_operator(known)
    if isinstance(known, Curve):
        return known.operator()
    raise NldiffError(f"known={known!r}: an operator, a curve or a text such as 'hard_clip:threshold=0.25' expected")


def told_operator(text: str) -> Operator:
    """The operator of a text such as "hard_clip:threshold=0.25".

    Raises:
        NldiffError: a text that `parse_operator` refuses, or that leaves out how strong the distortion is: a default
            would hardly be that of the recording.
    """
    recipe = parse_operator(text)
    for name, params in recipe.parts:
        key = DISTORTIONS[name].calibrated
        if key and key not in params and "sdr" not in params:
            raise NldiffError(f"{name} is known with its {key} only: '{name}:{key}=VALUE' expected")
    return recipe.build(None)


def loaded_priors(prior: PriorLike, config: RestoreConfig, method: Method) -> list[Prior]:
    """The priors to choose from, loaded for the device of `config`; none for methods that use none.

    Raises:
        NldiffError: unknown name, or a missing, corrupted or foreign file; something else than a prior.
    """
    if not method.uses_prior:
        return []
    if isinstance(prior, str | Path):
        device = choose_device(config.device)
        loaded = load_candidates(prior, device)
        for candidate in loaded:
            _log.info("prior %s: %d Hz, on %s", candidate.name, candidate.sample_rate, device)
        return loaded
    priors = [prior] if isinstance(prior, Prior) else list(prior) if isinstance(prior, Iterable) else []
    if not priors or not all(isinstance(candidate, Prior) for candidate in priors):
        raise NldiffError(f"prior={prior!r}: a name, a file or loaded priors expected")
    return priors
