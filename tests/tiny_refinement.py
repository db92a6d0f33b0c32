"""What tests of the refinement network share: a network in milliseconds a step."""

from typing import Any

TINY_REFINEMENT: dict[str, Any] = {"channels": [4, 4], "n_fft": 62, "hop": 16, "patch": 2, "embedding": 8}
