"""nldiff: recover the clean signal and the transfer curve from a distorted recording."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nldiff.version import __version__

if TYPE_CHECKING:
    from nldiff.curves import Curve
    from nldiff.errors import NldiffError
    from nldiff.identification.pairs import Identification, identify
    from nldiff.operators import parse_operator
    from nldiff.priors import load_prior
    from nldiff.restoration.draws import Draws, restore_draws
    from nldiff.restoration.output import restore_file
    from nldiff.restoration.pipeline import restore
    from nldiff.restoration.restorer import Restorer
    from nldiff.restoration.result import Restoration
    from nldiff.restoration.settings import RestoreConfig

__all__ = [
    "Curve",
    "Draws",
    "Identification",
    "NldiffError",
    "Restoration",
    "RestoreConfig",
    "Restorer",
    "__version__",
    "identify",
    "load_prior",
    "parse_operator",
    "restore",
    "restore_draws",
    "restore_file",
]

_HOMES = {
    "Curve": "nldiff.curves",
    "Draws": "nldiff.restoration.draws",
    "Identification": "nldiff.identification.pairs",
    "NldiffError": "nldiff.errors",
    "Restoration": "nldiff.restoration.result",
    "RestoreConfig": "nldiff.restoration.settings",
    "Restorer": "nldiff.restoration.restorer",
    "identify": "nldiff.identification.pairs",
    "load_prior": "nldiff.priors",
    "parse_operator": "nldiff.operators",
    "restore": "nldiff.restoration.pipeline",
    "restore_draws": "nldiff.restoration.draws",
    "restore_file": "nldiff.restoration.output",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import nldiff` is quick and modules cannot wait in a circle."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nldiff' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
