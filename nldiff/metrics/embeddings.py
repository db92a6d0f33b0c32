"""Embeddings of audio for the Fréchet distances: VGGish and EnCodec with the user's weights, and a log-mel one.

Each of them takes a mono signal `[time]` and its sample rate in Hz, and returns float64 `[frames, dimensions]`.
"""

import pickle
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nldiff.errors import NldiffError
from nldiff.metrics.packages import at_rate, import_package
from nldiff.metrics.sdr import FloatArray, as_float64

_RATE, _WINDOW, _HOP, _N_FFT = 16000, 400, 160, 512
_BANDS, _LOWEST, _HIGHEST = 64, 125.0, 7500.0
_PATCH = 96  # frames


def log_mel_embedding(signal: FloatArray, sample_rate: int) -> FloatArray:
    """Mean and standard deviation of each band of `log_mel_patches`. Nothing is learned, no weights are needed.

    Args:
        signal: `[time]`, -1 to 1, at least 0.975 s.
        sample_rate: in Hz.

    Returns:
        `[patches, 128]`, nepers.

    Raises:
        NldiffError: the signal is too short.
    """
    patches = log_mel_patches(signal, sample_rate)
    return np.concatenate([patches.mean(axis=1), patches.std(axis=1)], axis=1)


def log_mel_patches(signal: FloatArray, sample_rate: int) -> FloatArray:
    """VGGish's input (Hershey et al. 2017): `ln(mel + 0.01)`, 64 bands of 125 to 7500 Hz, patches of 0.96 s.

    Magnitudes at 16 kHz of periodic Hann windows of 25 ms every 10 ms, transform of 512 samples. The patches do not
    overlap; an incomplete one at the end is left out.

    nnAudio's `MelSpectrogram` cannot replace this front end, for which VGGish was trained: its triangles are linear in
    Hz, which changes the patches by up to 0.3 %, and its float32 windows alone change those of a tone by 2e-5.

    Args:
        signal: `[time]`, -1 to 1.
        sample_rate: in Hz; other rates are resampled to 16 kHz.

    Returns:
        `[patches, 96, 64]`, nepers.

    Raises:
        NldiffError: the signal is too short for one patch.
    """
    samples = at_rate(signal, sample_rate, _RATE)
    needed = _WINDOW + (_PATCH - 1) * _HOP
    if len(samples) < needed:
        raise NldiffError(f"signal of {len(samples) / _RATE:.3g} s is too short to embed: {needed / _RATE} s needed")
    frames = np.lib.stride_tricks.sliding_window_view(samples, _WINDOW)[::_HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    mel = np.abs(np.fft.rfft(frames * window, _N_FFT)) @ mel_weights()
    count = len(mel) // _PATCH
    return np.log(mel[: count * _PATCH] + 0.01).reshape(count, _PATCH, _BANDS)


@cache
def mel_weights() -> FloatArray:
    """Triangles of peak 1 that overlap by half and are linear in mel, `1127 ln(1 + f / 700)`; `[bins, bands]`."""

    def mel(frequency: FloatArray | float) -> FloatArray:
        return 1127 * np.log1p(np.asarray(frequency) / 700)

    bins = np.arange(_N_FFT // 2 + 1) * _RATE / _N_FFT
    position = (mel(bins) - mel(_LOWEST)) / (mel(_HIGHEST) - mel(_LOWEST)) * (_BANDS + 1)
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(1, _BANDS + 1)))


class VGGishNetwork(nn.Module):
    """The network of Hershey et al. 2017: six convolutions and three linear layers on log-mel patches.

    Parameters are named as in the PyTorch conversions of the published weights. The last layer has no activation,
    as in the published definition.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for block in ((64,), (128,), (256, 256), (512, 512)):
            for outputs in block:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        widths = (_PATCH // 16 * (_BANDS // 16) * inputs, 4096, 4096, 128)
        layers = []
        for wide, narrow in pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU()]
        self.embeddings = nn.Sequential(*layers[:-1])

    def forward(self, patches: Tensor) -> Tensor:
        """`[patches, 96, 64]` (frames, bands) -> `[patches, 128]`."""
        x = self.features(patches[:, None])
        # The trained weights expect the channels last.
        return self.embeddings(rearrange(x, "n c frame band -> n (frame band c)"))


class VGGish:
    """The usual embedding of the FAD, `[patches of 0.96 s, 128]`, before any postprocessing.

    Args:
        weights: path of a state dictionary, `.safetensors` or saved by torch (read without unpickling code), for
            example the file `vggish-10086976.pth` of github.com/harritaylor/torchvggish.

    Raises:
        NldiffError: the file is missing or holds other weights. When called: the signal is shorter than 0.975 s.
    """

    def __init__(self, weights: str | Path) -> None:
        state = _load_weights(Path(weights))
        with torch.device("meta"):
            self._network = VGGishNetwork().eval()
        try:
            self._network.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise NldiffError(f"{weights} does not hold the weights of VGGish") from error

    @torch.no_grad()
    def __call__(self, signal: FloatArray, sample_rate: int) -> FloatArray:
        """Embed a mono signal `[time]` of the given rate, in Hz."""
        patches = torch.from_numpy(log_mel_patches(signal, sample_rate)).to(torch.float32)
        return as_float64(torch.cat([self._network(batch) for batch in patches.split(32)]))


class EnCodec:
    """The encoder of EnCodec (Défossez et al. 2022) before quantisation, `[frames, 128]`, 75 frames a second.

    Args:
        folder: folder with `config.json` and `model.safetensors` of the 24 kHz mono model, for example a copy of
            huggingface.co/facebook/encodec_24khz. Nothing is downloaded.

    Raises:
        NldiffError: transformers or the folder is missing, or it holds another model.
    """

    def __init__(self, folder: str | Path) -> None:
        if not Path(folder).is_dir():
            raise NldiffError(f"{folder} is not a folder: the one with EnCodec's config.json is needed")
        transformers = import_package("transformers", "encodec")
        try:
            self._model = transformers.EncodecModel.from_pretrained(str(folder), local_files_only=True).eval()
        except (OSError, ValueError, RuntimeError) as error:
            raise NldiffError(f"{folder} does not hold a model of EnCodec") from error
        channels = self._model.config.audio_channels
        if channels != 1:
            raise NldiffError(f"{folder} holds an EnCodec of {channels} channels: the mono model is needed")

    @torch.no_grad()
    def __call__(self, signal: FloatArray, sample_rate: int) -> FloatArray:
        """Embed a mono signal `[time]` of the given rate, in Hz."""
        samples = at_rate(signal, sample_rate, self._model.config.sampling_rate)
        x = torch.from_numpy(np.asarray(samples, dtype=np.float32))
        return as_float64(self._model.encoder(x[None, None])[0].T)


def _load_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise NldiffError(f"{path} does not exist: a file with the weights of VGGish is needed")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise NldiffError(f"{path} cannot be read as a state dictionary") from error
