"""Guidance: Denoiser -> Denoiser, composed by nesting. w = 1 means off: the conditional denoiser alone."""

from .autoguidance import Autoguidance
from .cfgpp import CFGpp
from .classifier import Classifier, Logits, LogLikelihood
from .classifier_free import ClassifierFree
from .dynamic_threshold import DynamicThreshold
from .guided import Guided
from .interval import Interval
from .rescale import Rescale
from .skip_layer import SkipLayer
from .two_scale import TwoScale

__all__ = [
    "Autoguidance",
    "CFGpp",
    "Classifier",
    "ClassifierFree",
    "DynamicThreshold",
    "Guided",
    "Interval",
    "LogLikelihood",
    "Logits",
    "Rescale",
    "SkipLayer",
    "TwoScale",
]
