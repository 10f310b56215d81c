"""Measuring samples: distances between sets of points or features, each with what decides its comparability."""

from .attributes import alignment, diversity, entropy, total_variation, validity
from .bound import Bound, variational_bound
from .features import Extractor, FeatureSet, Resize
from .figure import Figure
from .floor import floor
from .frechet import frechet_distance
from .inception_score import inception_score
from .judge import Judge, clip_score, load_judge, retrieval
from .kernel_distance import kernel_distance
from .kernels import RBF, Cubic, Kernel
from .likelihood import HEUN, RK4, Exact, Likelihood, Normal, Rademacher, RungeKutta, Trace, dequantise, log_likelihood
from .memorisation import Memorisation, memorisation
from .neighbours import coverage, density, precision, recall
from .points import mmd2, nearest_distance, sliced_wasserstein
from .reconstruction import block_means, psnr, ssim
from .statistics import Moments, Statistics
from .straightness import Paths, straightness

__all__ = [
    "HEUN",
    "RBF",
    "RK4",
    "Bound",
    "Cubic",
    "Exact",
    "Extractor",
    "FeatureSet",
    "Figure",
    "Judge",
    "Kernel",
    "Likelihood",
    "Memorisation",
    "Moments",
    "Normal",
    "Paths",
    "Rademacher",
    "Resize",
    "RungeKutta",
    "Statistics",
    "Trace",
    "alignment",
    "block_means",
    "clip_score",
    "coverage",
    "density",
    "dequantise",
    "diversity",
    "entropy",
    "floor",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "load_judge",
    "log_likelihood",
    "memorisation",
    "mmd2",
    "nearest_distance",
    "precision",
    "psnr",
    "recall",
    "retrieval",
    "sliced_wasserstein",
    "ssim",
    "straightness",
    "total_variation",
    "validity",
    "variational_bound",
]
