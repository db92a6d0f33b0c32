from typing import Any

import pytest
import torch
from helpers import TINY_NETWORK

from nldiff.devices import choose_device
from nldiff.errors import NldiffError
from nldiff.networks import make_network
from nldiff.operators import WAVESHAPERS, make_waveshaper
from nldiff.priors.edm import EDMDenoiser
from nldiff.restoration.feasible import Intervals
from nldiff.restoration.sparse import RefinementSettings, sparsest_consistent
from nldiff.sampling import CompressedSTFTCost
from nldiff.sampling.settings import CostSettings


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")
    with pytest.raises(NldiffError, match=r"^device 'cuda:99' is not available: .+"):
        choose_device("cuda:99")
    with pytest.raises(NldiffError, match=r"^device 'bogus': auto, cpu, cuda, cuda:N or mps expected$"):
        choose_device("bogus")


# On the meta device nothing is computed, but tensors of two devices in one operation are refused as on a GPU.
META = torch.device("meta")
NETWORKS = [TINY_NETWORK, {"name": "ncsnpp", "channels": [4, 4], "n_fft": 30, "hop": 8, "embedding": 8}]


@pytest.mark.parametrize("config", NETWORKS, ids=lambda config: config["name"])
def test_a_network_makes_no_tensor_elsewhere(config: dict[str, Any]) -> None:
    denoiser = EDMDenoiser(make_network(**config).to(META), 0.06)
    x = torch.empty(2, 1000, device=META, requires_grad=True)
    denoised = denoiser(x, torch.full((2,), 0.1, device=META))
    (gradient,) = torch.autograd.grad(denoised.sum(), x)
    assert (denoised.device, gradient.device) == (META, META)
    assert denoised.shape == gradient.shape == x.shape


@pytest.mark.parametrize("name", WAVESHAPERS)
def test_likelihood_and_curve_make_no_tensor_elsewhere(name: str) -> None:
    curve = make_waveshaper(name, 1).to(META)
    x = torch.empty(1, 1000, device=META)
    cost = CompressedSTFTCost(CostSettings(64, 16)).prepare(x)
    for distorted in (curve(x), curve.prepare(x)()):
        gradients = torch.autograd.grad(cost(distorted).sum(), list(curve.parameters()), retain_graph=True)
        assert {gradient.device for gradient in gradients} == {META}


def test_the_refinement_makes_no_tensor_elsewhere() -> None:
    x = torch.empty(2, 1000, device=META)
    refined = sparsest_consistent(x, Intervals(x, x), [64, 128], 3, RefinementSettings())
    assert (refined.device, refined.shape) == (META, x.shape)
