"""The inception score of class probabilities (Salimans et al. 2016, arXiv 1606.03498)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core import InputError, Noise
from .features import FeatureSet
from .figure import Figure


def inception_score(samples: FeatureSet | Tensor, *, splits: int = 10, seed: int = 0) -> Figure:
    """Return the mean over `splits` of exp(mean_i KL(p(y | x_i) || mean_i p(y | x_i))), higher is better.

    The features are class probabilities: each row is at least 0 and sums to 1. Between 1 and the number of classes.
    Rows are shuffled by `seed` before they are split, since samples often come in the order of their classes; 10
    splits are the paper's. The error is the standard error over the splits. It rises with the number of samples and
    sees nothing within a class.

    Raises `InputError` for rows that are no probabilities, or fewer rows than splits.
    """
    s = FeatureSet.points(samples) if isinstance(samples, Tensor) else samples
    p = s.rows.double()
    if bool((p < 0).any()) or float((p.sum(1) - 1).abs().max()) > 1e-4:
        raise InputError("inception_score takes class probabilities, rows >= 0 that sum to 1: apply a softmax")
    if not 1 <= splits <= s.n:
        raise InputError(f"inception_score needs 1 <= splits <= samples, got {splits} splits of {s.n} samples")
    order = Noise(range(s.n)).uniform("inception_score", seed).argsort() if splits > 1 else torch.arange(s.n)
    scores = torch.stack([_score(part) for part in p[order].tensor_split(splits)])
    return Figure(
        name="inception_score",
        value=float(scores.mean()),
        error=float(scores.std() / splits**0.5) if splits > 1 else None,
        better="higher",
        n=s.n,
        n_reference=0,
        network=s.network,
        resize=s.resize,
        reference="none",
        settings=f"{splits} splits, seed {seed}",
    )


def _score(p: Tensor) -> Tensor:
    marginal = torch.special.entr(p.mean(0)).sum()
    return torch.exp(marginal - torch.special.entr(p).sum(1).mean())  # H(y) - H(y | x) = the mean KL
