import numpy as np
import pytest
import torch
from helpers import TINY_RATE, FakeSampler, load_tiny_prior, plucked

import nldiff
from nldiff.operators import DISTORTIONS, Distortion
from nldiff.priors import Prior
from nldiff.restoration.folds import FoldInversion
from nldiff.restoration.settings import RestoreConfig
from nldiff.restoration.strategies import choose_strategy
from nldiff.restoration.workspace import make_workspace
from nldiff.sound.recording import Recording

FOLDERS = {"wavefold", "triangle_fold", "sine_fold", "full_wave"}
AUTO = {"name": "auto"}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_tiny_prior(tmp_path_factory.mktemp("prior"))


@pytest.mark.parametrize("name", sorted(DISTORTIONS))
def test_chosen_for_known_curves_that_fall_somewhere_and_for_no_others(prior: Prior, name: str) -> None:
    y = Distortion(name)(torch.from_numpy(plucked(0.3, TINY_RATE))[None])
    recording = Recording.from_array(y.numpy(), TINY_RATE)
    work = make_workspace(recording, prior, RestoreConfig(refinement=AUTO), Distortion(name), FakeSampler())
    operator, observed = Distortion(name).at_level(work.gain), work.observed(work.excerpts)
    assert isinstance(choose_strategy(work, operator, observed, None), FoldInversion) == (name in FOLDERS)
    assert FoldInversion.of(work, operator, observed, observed) is None  # sampled: somebody else's


def test_branches_that_two_searches_disagree_about_are_reported(prior: Prior) -> None:
    noise = np.random.default_rng(0).laplace(size=TINY_RATE // 2)  # nothing can be predicted
    known, config = Distortion("triangle_fold", {"threshold": 0.5}), RestoreConfig(refinement=AUTO)
    y = known(torch.from_numpy(noise)).numpy()
    result = nldiff.restore(y, TINY_RATE, prior, known=known, config=config)
    assert result.fit.sampling is not None
    verdict = result.fit.sampling.verdict
    assert verdict is not None
    assert verdict.judgement is not None
    assert verdict.judgement.log_odds <= 4  # doubt
    assert "the result may be worse than the recording" in verdict.warnings[0]
    x = plucked(0.3, TINY_RATE, 0, 0.25)
    known = Distortion("wavefold", {"threshold": 0.2})
    result = nldiff.restore(known(torch.from_numpy(x)).numpy(), TINY_RATE, prior, known=known, config=config)
    assert result.fit.sampling is not None
    assert result.fit.sampling.verdict is None


def test_two_channels_come_back_without_sampling(prior: Prior) -> None:
    x = np.stack([plucked(0.3, TINY_RATE, seed, 0.25) for seed in (0, 1)])
    known = Distortion("wavefold", {"threshold": 0.2})
    y = known(torch.from_numpy(x)).numpy()
    steps: list[tuple[float, float, str]] = []
    config = RestoreConfig(refinement=AUTO, chunk_seconds=0.2, overlap_seconds=0.05)
    result = nldiff.restore(y, TINY_RATE, prior, known=known, config=config, on_step=lambda *step: steps.append(step))
    scaled = result.audio * (np.vdot(x, result.audio) / np.vdot(result.audio, result.audio))
    assert 20 * np.log10(np.linalg.norm(x) / np.linalg.norm(scaled - x)) > 30
    assert result.explained_db > 60
    assert result.fit.sampling is not None
    assert result.fit.sampling.evaluations == 0
    assert steps[-1][0] == steps[-1][1]
    # the search tells of no shares: a chunk counts when it is done
    assert [phase for *_, phase in steps] == ["listening", "restoring 1/2", "restoring 2/2", "restoring 2/2"]


def test_chunks_and_channels_of_a_rectified_recording_lie_alike(prior: Prior) -> None:
    t = np.arange(TINY_RATE) / TINY_RATE
    wave = sum(np.cos(2 * np.pi * k * 110 * t) / k for k in range(1, 8))  # not symmetric
    x = (0.2 * wave * np.minimum(t / 0.05, 1) * np.exp(-t)).astype(np.float32)
    x = np.stack([x, x + 0.02 * plucked(1.0, TINY_RATE)])
    known = Distortion("full_wave")
    config = RestoreConfig(refinement=AUTO, chunk_seconds=0.3, overlap_seconds=0.05)
    result = nldiff.restore(np.abs(x), TINY_RATE, prior, known=known, config=config)
    scaled = result.audio * (np.vdot(x, result.audio) / np.vdot(result.audio, result.audio))
    assert 20 * np.log10(np.linalg.norm(x) / np.linalg.norm(scaled - x)) > 20
