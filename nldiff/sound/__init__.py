"""Sound: audio files, recordings that are read piece by piece, chunks, sampling rates, levels, histograms.

Audio is a float32 numpy array `[channels, time]`, nominal range -1 to 1 (float files may exceed it). May import
`errors` and `writing`, and knows nothing of operators, priors and methods.
"""

from nldiff.sound.decoding import FFMPEG_SUFFIXES, readable
from nldiff.sound.files import (
    AUDIO_SUFFIXES,
    MIN_SECONDS,
    SILENCE_PEAK,
    AudioInfo,
    TruncatedError,
    check_observation,
    check_samples,
    find_audio,
    probe,
    read,
    sound_path,
    write_wav,
)
from nldiff.sound.formats import BITS, FORMATS, AudioFormat, AudioWriter, audio_writer, named_container
from nldiff.sound.levels import rms
from nldiff.sound.metadata import Metadata, append_chunks, read_metadata
from nldiff.sound.rates import above_band, from_rate, resample
