"""Sampling: from a denoiser, an operator and an observation to samples of the posterior.

Holds the likelihood, the fit of the operator, the samplers, what they start from, and their settings. May import
`priors.edm`, `operators`, `transforms` and `sound.histogram`; knows nothing of files, recordings and networks.
"""

from nldiff.sampling.likelihood import CompressedSTFTCost
from nldiff.sampling.noise import generators
from nldiff.sampling.posterior import Posterior, Step, sample
