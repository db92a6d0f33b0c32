"""Operators: what maps clean to observed audio, learnable waveshapers and known distortions.

May import `errors` only; knows nothing of sampling and files.
"""
