"""Priors: EDM preconditioning and schedules, saved priors, the shipped ones, and the choice among them.

May import `networks`, `weight_files`, `sound` and what is below them; knows nothing of samplers and operators.
"""

from nldiff.priors.saved import SHIPPED, Prior, load_prior, save_prior
