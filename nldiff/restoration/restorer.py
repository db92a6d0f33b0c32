"""Restoring many recordings with what is loaded once."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from nldiff.devices import choose_device
from nldiff.restoration.draws import SAMPLES, Draws, restore_draws
from nldiff.restoration.inputs import KnownOperator, PriorLike, checked_operator, loaded_priors
from nldiff.restoration.job import OnStep
from nldiff.restoration.methods import find_method
from nldiff.restoration.output import Outputs, restore_file
from nldiff.restoration.pipeline import restore
from nldiff.restoration.result import Restoration
from nldiff.restoration.settings import RestoreConfig, check_config


class Restorer:
    """Restores recordings, one after the other, with the same method and settings; priors are loaded once.

    Args:
        prior: as in `nldiff.restore`.
        device: auto, cpu, cuda, cuda:N or mps; None takes that of `config`.
        method: as in `nldiff.restore`.
        known: the operator of all recordings, as in `nldiff.restore`.
        config: everything else; its `prior` is not used.
        weights: name or path of the weights of a network.
        on_step: told of the progress of the recording that is restored, see `nldiff.restore`.

    Raises:
        NldiffError: unusable prior, device, operator, method or settings.
    """

    def __init__(
        self,
        prior: PriorLike = "auto",
        device: str | None = None,
        *,
        method: str | None = None,
        known: KnownOperator = None,
        config: RestoreConfig | None = None,
        weights: str | None = None,
        on_step: OnStep = None,
    ) -> None:
        config = config or RestoreConfig()
        self.config = replace(config, device=device) if device else config
        check_config(self.config)
        choose_device(self.config.device)
        self.known, self.on_step = checked_operator(known), on_step
        self.method = find_method(method or ("informed" if self.known else "blind"), weights)
        self.method.check_inputs(self.known, has_clean=False)
        self.weights = weights
        self.priors = loaded_priors(prior, self.config, self.method)

    def restore(self, audio: np.ndarray, sample_rate: int) -> Restoration:
        """Restore a recording in memory, see `nldiff.restore`.

        Raises:
            NldiffError: unusable audio or rate, or the method fails.
        """
        return restore(
            audio, sample_rate, self.priors, method=self.method, known=self.known, config=self.config,
            weights=self.weights, on_step=self.on_step,
        )  # fmt: skip

    def restore_draws(self, audio: np.ndarray, sample_rate: int, samples: int = SAMPLES) -> Draws:
        """Restore a recording in memory several times, see `nldiff.restore_draws`.

        Raises:
            NldiffError: as `restore`; fewer than 2 samples, or a method that gives the same every time.
        """
        return restore_draws(
            audio, sample_rate, self.priors, samples=samples, method=self.method, known=self.known, config=self.config,
            weights=self.weights, on_step=self.on_step,
        )  # fmt: skip

    def restore_file(self, source: str | Path, folder: str | Path, stem: str | None = None) -> Outputs:
        """Restore a file, see `nldiff.restore_file`.

        Raises:
            NldiffError: unusable input or folder, or the method fails.
        """
        return restore_file(
            source, folder, self.priors, self.config, stem=stem, known=self.known, method=self.method,
            weights=self.weights, on_step=self.on_step,
        )  # fmt: skip

    def restore_files(self, sources: Iterable[str | Path], folder: str | Path) -> Iterator[Outputs]:
        """Restore files into a folder; yields the outputs of each as soon as it is done.

        Raises:
            NldiffError: as `restore_file`.
        """
        for source in sources:
            yield self.restore_file(source, folder)
