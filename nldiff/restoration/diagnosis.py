"""Diagnosis: what the cheap hypotheses say of a recording, without restoring it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from nldiff.cores import side_by_side
from nldiff.priors import Prior
from nldiff.priors.choice import choose_prior
from nldiff.restoration.estimation import Verdict, weigh
from nldiff.restoration.hypotheses import judged_hypotheses
from nldiff.restoration.increasing import CurveSettings
from nldiff.restoration.parts import Part, find_parts
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.workspace import make_workspace
from nldiff.sound.narrow import narrowed
from nldiff.sound.recording import Recording

# What is looked at, in seconds: enough to tell a plateau or a bend.
_EXCERPT_SECONDS = 1.0
# Fewer iterations than a restoration takes to find a curve say the same of it.
_ITERATIONS_DIVISOR = 3 * CurveSettings().iterations_divisor
# The curve is told at these multiples of the RMS of the recording.
_MULTIPLES = (-4.0, -2.0, -1.0, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Diagnosis:
    """What the evidence says of channels that share a curve.

    Attributes:
        part: the channels, and a constant that was added.
        verdict: what was found; None for a constant channel.
        curve: clean and observed values of the curve, of the best hypothesis, in units of the recording, [points, 2];
            empty where nothing was found.
    """

    part: Part
    verdict: Verdict | None
    curve: np.ndarray

    @property
    def text(self) -> str:
        """The same in words, one line."""
        if self.verdict is None:
            return "silent"
        if self.verdict.finding == "unexplained":
            return "distorted, but no curve explains it: filtered or compressed after clipping?"
        if self.verdict.finding == "nothing happened":
            return "no distortion found"
        judgement = self.verdict.judgement
        assert judgement is not None
        lost = judgement.interval + judgement.unknown
        found = f"{self.verdict.hypothesis}, confidence {judgement.confidence:.0%}"
        return f"{found}, {lost:.1%} of the samples are lost where it is loudest"

    def values(self) -> dict[str, Any]:
        """What JSON says."""
        verdict = self.verdict
        judgement = verdict.judgement if verdict else None
        return {
            "channels": [channel + 1 for channel in self.part.channels],
            "offset": self.part.offset,
            "finding": verdict.finding if verdict else "silent",
            "hypothesis": verdict.hypothesis if verdict else "",
            "log_odds": verdict.log_odds if verdict else {},
            "confidence": judgement.confidence if judgement else None,
            "exact": judgement.exact if judgement else None,
            "interval": judgement.interval if judgement else None,
            "unknown": judgement.unknown if judgement else None,
            "curve": self.curve.tolist(),
        }


def diagnose(recording: Recording, priors: Sequence[Prior], config: RestoreConfig) -> list[Diagnosis]:
    """Judge the cheap hypotheses on the loudest second of every part of a recording; one prior for all parts.

    Distortions that only sampling finds are not found.

    Raises:
        NldiffError: unusable settings.
    """
    curve = {"iterations_divisor": _ITERATIONS_DIVISOR} | config.curve
    brief = replace(config, excerpt_seconds=_EXCERPT_SECONDS, joint_items=1, curve=curve)
    parts = find_parts(recording)
    if all(part.constant for part in parts):
        return [_silent(part) for part in parts]
    prior = choose_prior(recording, priors).prior
    return side_by_side(
        [
            partial(_silent, part) if part.constant else partial(_diagnosed, recording, part, prior, brief)
            for part in parts
        ]
    )


def _silent(part: Part) -> Diagnosis:
    return Diagnosis(part, None, np.zeros((0, 2)))


def _diagnosed(recording: Recording, part: Part, prior: Prior, config: RestoreConfig) -> Diagnosis:
    work = make_workspace(narrowed(part.of(recording)), prior, config, None)
    y = work.observed(work.excerpts)
    candidates = judged_hypotheses(work, y)
    verdict = weigh(work, y, candidates)
    curve = np.zeros((0, 2))
    if verdict.finding == "distorted":
        inputs = y.new_tensor(_MULTIPLES) * work.prior.sigma_data
        outputs = candidates[0].strategy.operator.portrait(inputs).curve[0]
        curve = np.stack([inputs.cpu().numpy(), outputs.cpu().numpy()], 1) / work.gain
        curve[:, 1] += part.offset
    return Diagnosis(part, verdict, curve)
