"""Settings as files of version 0.1 hold them: one flat group, translated to today's groups."""

from collections.abc import Mapping
from typing import Any

# Old name -> (group, name). `heun` and `refine_iterations` also choose a method, see `translate_settings`.
_RENAMED = {
    "cost_n_fft": ("cost", "n_fft"),
    "cost_hop": ("cost", "hop"),
    "operator_iterations": ("operator_fit", "iterations"),
    "operator_learning_rate": ("operator_fit", "learning_rate"),
    "operator_betas": ("operator_fit", "betas"),
    "operator_warmup": ("operator_fit", "warmup"),
    "operator_segments": ("operator_fit", "segments"),
    "operator_segment_length": ("operator_fit", "segment_length"),
    "refine_iterations": ("refinement", "iterations"),
    "refine_windows": ("refinement", "windows"),
    "polish_sigma": ("polish", "sigma"),
    "polish_steps": ("polish", "steps"),
}


def translate_settings(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort the settings of the flat group `sampler` of version 0.1 into groups.

    `heun` becomes the name of the sampler. `refine_iterations=0` becomes the refinement "none", any other number the
    refinement "auto" with as many iterations. Everything else stays in the group "sampler", unknown names included:
    the caller finds them when it checks the groups against the fields of their settings. Values are not checked here.

    Args:
        flat: name of version 0.1 (or of today's sampler) -> value.

    Returns:
        Group ("sampler", "cost", "operator_fit", "refinement", "polish") -> name -> value; only groups with settings.
    """
    groups: dict[str, dict[str, Any]] = {}
    for old, value in flat.items():
        group, name = _RENAMED.get(old, ("sampler", old))
        settings = groups.setdefault(group, {})
        if old == "heun":
            settings["name"] = "heun" if value else "euler"
            continue
        if old == "refine_iterations":
            settings["name"] = "auto" if value else "none"
            if not value:
                continue
        settings[name] = value
    return groups
