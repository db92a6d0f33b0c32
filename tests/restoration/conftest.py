"""Fixtures of restorations: a tiny prior, and a sampler that changes nothing."""

import pytest
from helpers import FakeSampler, load_tiny_prior, use_sampler

from nldiff.priors.saved import Prior


@pytest.fixture(scope="session")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Prior:
    return load_tiny_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSampler:
    """What the methods with a prior draw from; it answers with what it gets."""
    sampler = FakeSampler()
    use_sampler(monkeypatch, sampler)
    return sampler
