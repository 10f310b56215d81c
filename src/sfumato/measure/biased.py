"""The kernel distance with the bias of its sample count left in, as the Frechet distance has it."""

from __future__ import annotations

from torch import Tensor

from .features import FeatureSet, pair
from .figure import Figure
from .kernels import Cubic

_CUBIC = Cubic()


def biased_kernel_distance(samples: FeatureSet | Tensor, reference: FeatureSet | Tensor) -> Figure:
    """Return mean k(x_i, x_j) + mean k(y_i, y_j) - 2 mean k(x_i, y_j) over all pairs, lower is better.

    The V-statistic of the kernel distance (Gretton et al. 2012, eq. 5; kernel (x . y / d + 1)^3): never negative, and
    positive for equal laws by about 1/n. So, unlike the unbiased estimate, which is 0 on average for a perfect model,
    it has a ratio to what real data scores at the same counts.
    """
    x, y = pair(samples, reference)
    a, b = x.rows.double(), y.rows.double()
    value = _CUBIC(a, a).mean() + _CUBIC(b, b).mean() - 2 * _CUBIC(a, b).mean()
    return Figure(
        name="biased_kernel_distance",
        value=float(value),
        better="lower",
        n=x.n,
        n_reference=y.n,
        network=x.network,
        resize=x.resize,
        reference=y.hash,
    )
