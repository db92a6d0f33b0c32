"""Score networks by name; a new one is a class and a line in this table."""

from torch import nn

from nldiff.errors import NldiffError
from nldiff.networks.cqtunet import CQTUNet

NETWORKS: dict[str, type[nn.Module]] = {"cqtunet": CQTUNet}


def make_network(name: str, **arguments: object) -> nn.Module:
    """Build a score network from its name and constructor arguments.

    Raises:
        NldiffError: the name is unknown or an argument is not one of the constructor's.
    """
    if name not in NETWORKS:
        raise NldiffError(f"unknown network '{name}' (known: {', '.join(NETWORKS)})")
    try:
        return NETWORKS[name](**arguments)
    except (TypeError, ValueError) as error:
        raise NldiffError(f"network '{name}': {error}") from error
