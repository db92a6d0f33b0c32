"""Sampling: likelihood, operator fit and samplers, from a denoiser and an operator to samples of the posterior.

May import `priors.edm`, `operators` and `transforms`; knows nothing of files, recordings and methods.
"""
