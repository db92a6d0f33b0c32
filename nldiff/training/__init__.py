"""Training: the loop, its data, and what is particular to priors and to comparison networks.

May import everything that is trained; knows nothing of inference.
"""
