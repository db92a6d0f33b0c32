from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY_RATE, clipped, rms
from tiny_refinement import TINY_REFINEMENT

from nldiff.errors import NldiffError
from nldiff.networks.refinement import make_refinement_network
from nldiff.operators import Distortion
from nldiff.priors.saved import Prior, load_prior
from nldiff.restoration.feasible import Intervals
from nldiff.restoration.learned import SHIPPED, load_refiner, refiner_for, save_refiner
from nldiff.restoration.pipeline import restore
from nldiff.restoration.settings import RestoreConfig, resolve_settings
from nldiff.restoration.sparse import RefinementSettings

WINDOWS = (128, 256)
KNOWN = Distortion("hard_clip", {"threshold": 0.15})


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A file of a network of random weights that changes what it sees by about its scale."""
    torch.manual_seed(0)
    made = make_refinement_network(**TINY_REFINEMENT)
    torch.nn.init.constant_(made.network.output_gain, 1.0)  # type: ignore[arg-type]
    path = tmp_path / "tiny.safetensors"
    save_refiner(path, made, {"network": TINY_REFINEMENT, "sample_rate": TINY_RATE, "windows": list(WINDOWS)})
    return path


def settings(network: str | Path, windows: tuple[int, ...] = WINDOWS) -> RefinementSettings:
    return RefinementSettings(windows=windows, network=str(network))


def test_what_it_returns_is_a_member_and_items_are_refined_alone(network: Path) -> None:
    source = torch.Generator().manual_seed(0)
    found = torch.randn(2, 2, 400, generator=source)
    low = torch.randn(2, 400, generator=source)
    feasible = Intervals(low, low + torch.rand(2, 400, generator=source))
    refiner = load_refiner(network, torch.device("cpu"))
    result = refiner(found, feasible)
    assert torch.equal(feasible.project(result), result)
    assert not result.requires_grad
    assert not torch.allclose(result, feasible.project(found.mean(1)), atol=1e-3)
    alone = refiner(found[1:], Intervals(feasible.low[1:], feasible.high[1:]))
    assert torch.equal(alone, result[1:])


def test_long_signals_are_refined_by_sections_and_known_ones_left_alone(network: Path) -> None:
    source, length = torch.Generator().manual_seed(0), 8 * TINY_RATE
    found = torch.randn(1, 2, length, generator=source)
    mean = found.mean(1)
    # 8 s are three sections of 3 s that begin every 2.5 s; the last is known.
    is_open = torch.arange(length) < 5 * TINY_RATE
    feasible = Intervals(torch.where(is_open, mean - 1, mean), torch.where(is_open, mean + 1, mean))
    refiner = load_refiner(network, torch.device("cpu"))
    result = refiner(found, feasible)
    assert torch.equal(result[0, ~is_open], mean[0, ~is_open])
    for start, begins, ends in ((0, 0, 2.5), (2.5, 3, 5)):
        section = slice(round(start * TINY_RATE), round(start * TINY_RATE) + 3 * TINY_RATE)
        with torch.no_grad():
            whole = refiner.network(found[:, :, section], feasible.low[:, section], feasible.high[:, section])
        alone = slice(round(begins * TINY_RATE), round(ends * TINY_RATE))
        inside = slice(alone.start - section.start, alone.stop - section.start)
        torch.testing.assert_close(result[:, alone], whole[:, inside])


def test_a_share_of_the_correction_is_made(network: Path) -> None:
    source = torch.Generator().manual_seed(0)
    found, low = torch.randn(1, 2, 400, generator=source), torch.randn(1, 400, generator=source)
    feasible = Intervals(low, low + torch.rand(1, 400, generator=source))
    refiner, before = load_refiner(network, torch.device("cpu")), feasible.project(found.mean(1))
    assert refiner.trust == 1
    whole, part = refiner(found, feasible), replace(refiner, trust=0.25)(found, feasible)
    torch.testing.assert_close(part - before, 0.25 * (whole - before))
    assert float((whole - before).abs().max()) > 0.01


def test_which_network_is_taken(prior: Prior, network: Path) -> None:
    assert refiner_for(settings("none"), prior, TINY_RATE) is None
    assert prior.name not in SHIPPED
    assert refiner_for(settings("auto"), prior, TINY_RATE) is None
    found = refiner_for(settings(network), prior, TINY_RATE)
    assert found is not None
    assert (found.sample_rate, found.windows) == (TINY_RATE, WINDOWS)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_suit_the_settings_of_the_prior_of_their_name(name: str) -> None:
    prior = load_prior(name, torch.device("cpu"))
    settings = resolve_settings(prior, RestoreConfig()).refinement
    assert refiner_for(settings, prior, prior.sample_rate) is not None
    assert refiner_for(settings, prior, 2 * prior.sample_rate) is None


@pytest.mark.parametrize("windows", [[256, 128], [128, 128], [], [0, 128], [128.0, 256], 128])
def test_windows_that_are_none_or_in_another_order_are_refused(tmp_path: Path, windows: object) -> None:
    path = tmp_path / "network.safetensors"
    config = {"network": TINY_REFINEMENT, "sample_rate": TINY_RATE, "windows": windows}
    save_refiner(path, make_refinement_network(**TINY_REFINEMENT), config)
    with pytest.raises(NldiffError, match=r"windows=.*: lengths of windows, the shortest first, expected"):
        load_refiner(path, torch.device("cpu"))


@pytest.mark.parametrize(("rate", "windows"), [(16000, WINDOWS), (TINY_RATE, (128, 512))])
def test_a_network_for_other_recordings_is_refused(
    prior: Prior, network: Path, rate: int, windows: tuple[int, ...]
) -> None:
    with pytest.raises(NldiffError, match=rf"it is for {TINY_RATE} Hz and windows \[128, 256\], not for {rate} Hz"):
        refiner_for(settings(network, windows), prior, rate)


def test_an_unknown_network_is_named(prior: Prior) -> None:
    with pytest.raises(NldiffError, match="unknown refinement network 'nowhere'"):
        refiner_for(settings("nowhere"), prior, TINY_RATE)


def test_a_restoration_ends_with_the_network_inside_the_feasible_set(prior: Prior, network: Path) -> None:
    y = clipped(0.4, TINY_RATE)[0]

    def restored(**changes: Any) -> torch.Tensor:
        refinement = {"name": "sparse", "iterations": 8, "windows": list(WINDOWS)} | changes
        result = restore(y, TINY_RATE, prior, known=KNOWN, config=RestoreConfig(refinement=refinement))
        return torch.from_numpy(result.audio)

    without, with_network = restored(network="none"), restored(network=str(network))
    assert torch.equal(restored(), without)
    change = (with_network - without).abs()
    clipped_samples = torch.from_numpy(abs(y) > 0.1499)
    assert float(change[clipped_samples].mean()) > 1e-3
    # Other samples stay in intervals of about twice the loosest tolerance, clipped ones beyond the threshold.
    tolerance = rms(y) / 25
    assert float(change[~clipped_samples].max()) < 3 * tolerance
    assert float(with_network.abs()[clipped_samples].min()) > 0.15 - tolerance
