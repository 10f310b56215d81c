"""Exact models and the conformance suite: what the library is proven with, for the reader's own parts too."""

from .classifier import ExactClassifier
from .conformance import cases, check
from .empirical import Empirical
from .exact import Counted, ExactDenoiser, Model, exact_network
from .gaussian import Gaussian
from .mixture import GaussianMixture
from .operator_checks import check_operator
from .probe import moments
from .report import Case, ConformanceError, Report, Row

__all__ = [
    "Case",
    "ConformanceError",
    "Counted",
    "Empirical",
    "ExactClassifier",
    "ExactDenoiser",
    "Gaussian",
    "GaussianMixture",
    "Model",
    "Report",
    "Row",
    "cases",
    "check",
    "check_operator",
    "exact_network",
    "moments",
]
