"""Training: the loop, its files, processes and data; the losses of priors and of comparison networks.

May import the packages of what is trained (`networks`, `priors`, `baselines`), `operators`, `metrics` and `sound`, and
knows nothing of sampling and restoration.
"""
