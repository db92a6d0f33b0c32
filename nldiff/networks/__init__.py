"""Score networks by name; a new one is a class and a line in this table."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from nldiff.errors import NldiffError
from nldiff.networks.cqtunet import CQTUNet
from nldiff.networks.layers import ScoreNetwork
from nldiff.networks.ncsnpp import NCSNpp

NETWORKS: dict[str, type[ScoreNetwork]] = {"cqtunet": CQTUNet, "ncsnpp": NCSNpp}

_Network = TypeVar("_Network", bound=nn.Module)


def make_network(name: str = "", **arguments: Any) -> ScoreNetwork:
    """Build a score network from its name and constructor arguments.

    Raises:
        NldiffError: the name is missing or unknown, or an argument is not one of the constructor's.
    """
    return make_from_table(NETWORKS, name, arguments)


def make_from_table(table: Mapping[str, type[_Network]], name: str, arguments: Mapping[str, Any]) -> _Network:
    """Build the network called `name` in `table`; raises as `make_network`."""
    if name not in table:
        raise NldiffError(f"unknown network '{name}' (known: {', '.join(table)})")
    try:
        return table[name](**arguments)
    except (TypeError, ValueError) as error:
        raise NldiffError(f"network '{name}': {error}") from error
