"""Experiments: method x distortion x clip x seed, with tables, statistics and figures."""

from nldiff.evaluation.config import EvaluationConfig, load_experiment
from nldiff.evaluation.experiment import Outcome, evaluate
from nldiff.evaluation.methods import FAMILIES, METHODS, Method, Run

__all__ = ["FAMILIES", "METHODS", "EvaluationConfig", "Method", "Outcome", "Run", "evaluate", "load_experiment"]
