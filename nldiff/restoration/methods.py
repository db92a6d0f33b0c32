"""The methods by name: what each needs and offers. A new one is one function and one entry of `METHODS`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from nldiff.baselines.choice import shipped_weights
from nldiff.baselines.networks import NETWORKS
from nldiff.baselines.saved import SHIPPED
from nldiff.errors import NldiffError
from nldiff.operators import WAVESHAPERS, Operator
from nldiff.restoration import signal_methods as signal
from nldiff.restoration.diffusion import diffusion
from nldiff.restoration.fit import Fit
from nldiff.restoration.job import Emit, Job, OnStep
from nldiff.restoration.settings import resolve_settings
from nldiff.restoration.strategies import allowed_strategies


@dataclass(frozen=True)
class Method:
    """A way to restore a recording: what it does, needs and offers.

    Attributes:
        run: does the work.
        operator: whether it "needs" the known operator, "may" use it, or "ignores" it.
        uses_prior: it needs priors.
        needs_clean: it looks at the clean signal.
        takes_weights: it is a network whose weights can be named.
        random: other seeds give other results.
        fixes_scale: its result has the scale of the clean signal, not an arbitrary one.
        finds_operator: it estimates the operator, which can be judged then.
        suits: (name of a distortion, rate in Hz) -> whether it is made for such recordings.
        name: key of `METHODS`, or name or path of a network's weights.
    """

    run: Callable[[Job, Emit, OnStep], Fit]
    operator: Literal["needs", "may", "ignores"] = "ignores"
    uses_prior: bool = False
    needs_clean: bool = False
    takes_weights: bool = False
    random: bool = False
    fixes_scale: bool = True
    finds_operator: bool = False
    suits: Callable[[str, int], bool] = lambda family, sample_rate: True
    name: str = ""

    def check_inputs(self, known: Operator | None, has_clean: bool) -> None:
        """Validate that there is what the method needs, and no operator that it cannot use.

        Raises:
            NldiffError: something is missing, or cannot be used.
        """
        if self.operator == "needs" and known is None:
            raise NldiffError(f"method {self.name} needs the known operator (--known)")
        if self.operator == "ignores" and known is not None:
            raise NldiffError(f"--known {known}: --method {self.name} cannot use it")
        if self.needs_clean and not has_clean:
            raise NldiffError(f"{self.name} needs the clean signal: only with --distort, where INPUT is clean")

    def check(self, job: Job) -> None:
        """Validate that a job has what the method needs.

        Raises:
            NldiffError: it does not, or settings are unusable.
        """
        self.check_inputs(job.known, job.clean is not None)
        for prior in job.priors if self.uses_prior else ():
            allowed_strategies(resolve_settings(prior, job.config).refinement.name)


def _network(name: str) -> Method:
    def suits(family: str, sample_rate: int) -> bool:
        return shipped_weights(name, family, sample_rate) is not None

    return Method(partial(signal.by_chunks, partial(signal.network, name)), "may", takes_weights=True, suits=suits)


def _spade(variant: signal.Variant) -> Method:
    run = partial(signal.by_chunks, partial(signal.spade, variant))
    return Method(run, "may", suits=lambda family, rate: family in signal.CLIPPERS)


def blind(waveshaper: str | None = None) -> Method:
    """Blind restoration, with a family of curves or that of the settings."""
    run = partial(diffusion, told=False, waveshaper=waveshaper)
    return Method(run, uses_prior=True, random=True, fixes_scale=False, finds_operator=True)


METHODS: dict[str, Method] = {
    "observed": Method(partial(signal.by_chunks, signal.unchanged)),
    "blind": blind(),
    **{name: blind(name) for name in WAVESHAPERS},
    "informed": Method(partial(diffusion, told=True), "needs", uses_prior=True, random=True),
    **{name: _network(name) for name in NETWORKS},
    "aspade": _spade("analysis"),
    "sspade": _spade("synthesis"),
    "irm": Method(partial(signal.by_chunks, signal.mask), needs_clean=True),
    "voicefixer": Method(partial(signal.by_chunks, signal.voicefixer), fixes_scale=False),
    "resemble-enhance": Method(partial(signal.by_chunks, signal.resemble_enhance), random=True, fixes_scale=False),
}
"""Name to method; those of waveshapers are blind restoration with that family of curves."""


def find_method(name: str | Method, weights: str | None = None) -> Method:
    """The method of a name, after validating that its weights exist.

    Args:
        name: key of `METHODS`, or weights of a network by name or path; what was found before is returned as it is.
        weights: name or path of weights, for networks only.

    Raises:
        NldiffError: unknown method or weights, or weights that cannot be loaded.
    """
    if isinstance(name, Method):
        return name
    if name in METHODS:
        method = replace(METHODS[name], name=name)
    elif name in SHIPPED or Path(name).is_file():
        signal.loaded(name, torch.device("cpu"))
        run = METHODS[next(iter(NETWORKS))].run
        method = Method(lambda job, emit, on_step: run(replace(job, weights=name), emit, on_step), "may", name=name)
    else:
        raise NldiffError(f"unknown method '{name}' (known: {', '.join((*METHODS, *SHIPPED))}, or a file)")
    if weights:
        if not method.takes_weights:
            raise NldiffError(f"--weights {weights}: only with a network as --method ({', '.join(NETWORKS)})")
        signal.loaded(weights, torch.device("cpu"))
    return method
