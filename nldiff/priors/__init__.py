"""Priors: EDM preconditioning and schedules, saved priors, the shipped ones, and the choice among them.

May import `networks`, `sound` and `weight_files`; knows nothing of samplers.
"""

from nldiff.priors.saved import SHIPPED, Prior, load_prior, read_config, save_prior

__all__ = ["SHIPPED", "Prior", "load_prior", "read_config", "save_prior"]
