"""Methods of the literature for comparison: supervised networks, A-SPADE, ideal ratio mask, external packages.

There is one file per method, and each method maps audio `[batch, time]` to audio. May import `networks`, `transforms`,
`weight_files`, `sound` and `metrics.packages`; knows nothing of priors and sampling.
"""
