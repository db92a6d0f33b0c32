"""Transforms of audio: an invertible constant-Q transform, an STFT, spectrograms of networks, measures and pictures.

May import `errors`; knows nothing of networks, files or metrics.
"""

from nldiff.transforms.cqt import ConstantQ
from nldiff.transforms.spectrogram import Spectrogram
