"""Restoration: settings, methods, strategies, and the pipeline from a recording to a restored one.

May import everything but `training`, `evaluation` and `report`; knows no class of a network.
"""
