"""Experiments: method x distortion x clip x seed, with tables, statistics and figures.

May import everything but `training`, `report` and `cli`. The methods are those of `nldiff.restoration`.
"""

from nldiff.evaluation.config import EvaluationConfig, load_experiment
from nldiff.evaluation.experiment import Outcome, evaluate
