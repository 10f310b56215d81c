"""Exact models and the conformance suite: what the library is proven with, for the reader's own parts too."""

from .empirical import Empirical
from .exact import Counted, ExactDenoiser, Model, exact_network
from .gaussian import Gaussian
from .mixture import GaussianMixture

__all__ = ["Counted", "Empirical", "ExactDenoiser", "Gaussian", "GaussianMixture", "Model", "exact_network"]
