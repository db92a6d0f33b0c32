"""Score networks: `CQTUNet`, `NCSNpp` and their layers; a new one is a class and a line in the table `NETWORKS`.

May import `transforms` and `errors`; knows nothing of diffusion, configuration files or audio files.
"""

from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from torch import nn

from nldiff.errors import NldiffError
from nldiff.networks.cqtunet import CQTUNet
from nldiff.networks.layers import ScoreNetwork
from nldiff.networks.ncsnpp import NCSNpp

NETWORKS: dict[str, type[ScoreNetwork]] = {"cqtunet": CQTUNet, "ncsnpp": NCSNpp}

_SEQUENCES = (list[int], tuple[int, int])
_Network = TypeVar("_Network", bound=nn.Module)


def make_network(name: str = "", **arguments: Any) -> ScoreNetwork:
    """Build a score network from its name and constructor arguments.

    Raises:
        NldiffError: the name is missing or unknown, or the constructor refuses an argument.
    """
    return make_from_table(NETWORKS, name, arguments)


def make_from_table(table: Mapping[str, type[_Network]], name: str, arguments: Mapping[str, Any]) -> _Network:
    """Build the network `name` of `table`; errors are those of `make_network`."""
    if name not in table:
        raise NldiffError(f"unknown network '{name}' (known: {', '.join(table)})")
    hints = get_type_hints(table[name].__init__)
    for argument, value in arguments.items():
        # A network may be built with other numbers, true among them, and fail when it is used.
        hint = hints.get(argument)
        values = value if hint in _SEQUENCES else [value]
        whole = isinstance(values, list | tuple) and all(type(each) is int for each in values)
        if hint in (int, *_SEQUENCES) and not whole:
            raise NldiffError(f"network '{name}': {argument}={str(value)[:50]}: whole numbers expected")
    try:
        return table[name](**arguments)
    except (TypeError, ValueError) as error:
        raise NldiffError(f"network '{name}': {error}") from error
