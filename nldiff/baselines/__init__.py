"""Methods of the literature for comparison: supervised networks, A-SPADE, ideal ratio mask, external packages.

Each method has a file and maps audio `[batch, time]` to audio; `networks`, `saved` and `choice` are the table of the
trained ones, their files and the choice of weights. May import `errors`, `networks`, `transforms`, `weight_files`,
`sound` and `metrics.packages`; knows nothing of priors and sampling.
"""
