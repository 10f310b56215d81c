"""What is read from samples, counted: are captions followed, are samples valid, are unasked attributes as in the data.

Attributes are integers, a column each: what an oracle reads, such as `sfumato.data.tableau`'s. -1 may stand for what
could not be read; it is a value like any other.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..core import InputError
from .figure import Figure

_READ = "attributes"  # the network of figures that rest on what an oracle reads


def alignment(right: Tensor) -> Figure:
    """Return the share of samples that fulfil every claim of their caption; `right` bool[N], one a sample.

    The error is the binomial standard error. Raises `InputError` unless `right` is bool[N], N > 0.
    """
    return _share("alignment", right)


def validity(valid: Tensor) -> Figure:
    """Return the share of samples that an oracle can explain; `valid` bool[N], otherwise as `alignment`."""
    return _share("validity", valid)


def diversity(samples: Tensor, reference: Tensor) -> Figure:
    """Return sum_a H(samples_a) / sum_a H(reference_a), the entropies of the attributes a in bits; 1 for equal laws.

    `samples` int64[N, A] or [N] are the attributes that a caption leaves open, read from samples of that one caption;
    `reference` int64[M, A] those of data with the same caption. Entropies are of each column alone, so dependence
    between attributes is not seen, and of the shares as counted: too small by about (values - 1) / (2 N ln 2) bits,
    which cancels where N = M. Above 1 is possible: more even than the data.

    Raises `InputError` for shapes that do not fit and a reference without any entropy.
    """
    x, y = _columns(samples, reference)
    mine, its = (sum(entropy(column) for column in side.T) for side in (x, y))
    if not its:
        raise InputError("diversity needs a reference that varies: every attribute has one value there")
    return _figure("diversity", float(mine / its), x, y, better="higher")


def total_variation(samples: Tensor, reference: Tensor) -> Figure:
    """Return the mean over attributes of 1/2 sum_v |p_v - q_v|, between 0 and 1, lower is better.

    p and q are the shares of each value in `samples` int64[N, A] or [N] and `reference` int64[M, A]. For equal laws it
    is about sum_v sqrt(p_v (1 - p_v) (1/N + 1/M) / (2 pi)), not 0. Raises `InputError` for shapes that do not fit.
    """
    x, y = _columns(samples, reference)
    gaps = [_gap(a, b) for a, b in zip(x.T, y.T, strict=True)]
    return _figure("total_variation", sum(gaps) / len(gaps), x, y, better="lower")


def entropy(values: Tensor) -> float:
    """Return -sum_v p_v log2 p_v of the shares of the values in `values` int64[N], in bits."""
    p = torch.unique(values, return_counts=True)[1].double() / len(values)
    return float(-(p * p.log2()).sum())


def _gap(a: Tensor, b: Tensor) -> float:
    values = torch.unique(torch.cat([a, b]))
    p, q = ((side[:, None] == values).double().mean(0) for side in (a, b))
    return 0.5 * float((p - q).abs().sum())


def _share(name: str, right: Tensor) -> Figure:
    if right.dtype != torch.bool or right.ndim != 1 or not len(right):
        raise InputError(f"{name} takes bool[N], one a sample; got {right.dtype} of shape {tuple(right.shape)}")
    n, value = len(right), float(right.double().mean())
    return Figure(
        name=name,
        value=value,
        error=(value * (1 - value) / n) ** 0.5,
        better="higher",
        n=n,
        n_reference=0,
        network=_READ,
        resize="none",
        reference="none",
    )


def _columns(samples: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    x, y = (side[:, None] if side.ndim == 1 else side for side in (samples, reference))
    for name, side in (("samples", x), ("reference", y)):
        if side.ndim != 2 or not side.numel() or side.is_floating_point():
            raise InputError(
                f"{name} must be integers [N, A], a column an attribute; got {side.dtype} {tuple(side.shape)}"
            )
    if x.shape[1] != y.shape[1]:
        raise InputError(f"samples have {x.shape[1]} attributes and the reference {y.shape[1]}: give the same ones")
    return x, y


def _figure(name: str, value: float, x: Tensor, y: Tensor, *, better: str) -> Figure:
    return Figure(
        name=name,
        value=value,
        better="lower" if better == "lower" else "higher",
        n=len(x),
        n_reference=len(y),
        network=_READ,
        resize="none",
        reference=hashlib.sha256(y.to(torch.int64).cpu().contiguous().numpy().tobytes()).hexdigest(),
    )
