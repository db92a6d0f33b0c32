"""Score networks by name; a new one is a class and a line in this table."""

from typing import Any

from nldiff.errors import NldiffError
from nldiff.networks.cqtunet import CQTUNet
from nldiff.networks.layers import ScoreNetwork
from nldiff.networks.ncsnpp import NCSNpp

NETWORKS: dict[str, type[ScoreNetwork]] = {"cqtunet": CQTUNet, "ncsnpp": NCSNpp}


def make_network(name: str = "", **arguments: Any) -> ScoreNetwork:
    """Build a score network from its name and constructor arguments.

    Raises:
        NldiffError: the name is missing or unknown, or an argument is not one of the constructor's.
    """
    if name not in NETWORKS:
        raise NldiffError(f"unknown network '{name}' (known: {', '.join(NETWORKS)})")
    try:
        return NETWORKS[name](**arguments)
    except (TypeError, ValueError) as error:
        raise NldiffError(f"network '{name}': {error}") from error
