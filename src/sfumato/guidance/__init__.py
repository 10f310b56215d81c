"""Guidance: Denoiser -> Denoiser, composed by nesting. w = 1 means off: the conditional denoiser alone."""

from .classifier_free import ClassifierFree
from .guided import Guided
from .interval import Interval
from .rescale import Rescale

__all__ = ["ClassifierFree", "Guided", "Interval", "Rescale"]
