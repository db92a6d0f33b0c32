import pytest
import torch

from nldiff.devices import choose_device
from nldiff.errors import NldiffError


def test_devices_that_are_not_there_are_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("bogus", "cuda:99"):
        with pytest.raises(NldiffError, match=f"^device '{name}' is not available: .+"):
            choose_device(name)
