"""LyCORIS' two products, LoHa and LoKr (arXiv 2108.06098 and 2309.14859), as the low-rank products that they are.

With o the product entry by entry and (x) Kronecker's: (U V) o (S T) = (U * S)(V . T), whose columns are all products of
a column with a column and whose rows those of a row with a row; and (U V) (x) (S T) = (U (x) S)(V (x) T).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]

LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
MOST = 1 << 14  # of the rank of a product: more is a file that somebody made to fill the memory


def complete(held: Mapping[str, Tensor]) -> bool:
    """Return whether these are all tensors of a product, and no more."""
    names = {name for name in held if name not in ("alpha", "magnitude")}
    if names & set(LOHA):
        tucker = {"hada_t1", "hada_t2"}
        return names in (set(LOHA), set(LOHA) - tucker)
    first = names - {n for n in names if "w2" in n or "t2" in n}
    second = names - first
    whole = first == {"lokr_w1"} or first == {"lokr_w1_a", "lokr_w1_b"}
    return whole and second in ({"lokr_w2"}, {"lokr_w2_a", "lokr_w2_b"}, {"lokr_w2_a", "lokr_w2_b", "lokr_t2"})


def rank(held: Mapping[str, Tensor]) -> int:
    """Return what alpha is divided by, 0 where it counts for nothing: for LoKr of two whole matrices."""
    name = next((n for n in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if n in held), None)
    return 0 if name is None else len(held[name])


def factors(held: Mapping[str, Tensor], rows: int, columns: int) -> Pair:
    """Return (up [rows, r], down [r, columns]), float32, whose product is that of LoHa or LoKr before its scale.

    A row of a convolution is flat. Raises `RuntimeError` for tensors that do not make a matrix of this size.
    """
    part = {name: tensor.float() for name, tensor in held.items()}
    if "hada_w1_a" in part:
        (u, v), (s, t) = (_pair(part, f"hada_w{i}", f"hada_t{i}") for i in "12")
        _check(len(u) == len(s) == rows and v[0].numel() == t[0].numel() == columns and len(v) * len(t) <= MOST)
        up = torch.einsum("oi,oj->oij", u, s).flatten(1)
        return up, torch.einsum("ic,jc->ijc", v.flatten(1), t.flatten(1)).flatten(0, 1)
    (u, v), (s, t) = _pair(part, "lokr_w1", ""), _pair(part, "lokr_w2", "lokr_t2")
    _check(len(u) * len(s) == rows and v[0].numel() * t[0].numel() == columns and len(v) * len(t) <= MOST)
    return torch.kron(u, s), torch.kron(v.flatten(1), t.flatten(1))


def _pair(part: Mapping[str, Tensor], name: str, middle: str) -> Pair:
    """Return the factors of a matrix, of a whole one the identity and it; `middle` is Tucker's core [r, r, h, w]."""
    if name in part:
        whole = part[name]
        return torch.eye(len(whole)), whole
    a, b = part[f"{name}_a"], part[f"{name}_b"]
    if middle not in part:
        return a, b
    core = part[middle]
    _check(core.shape[:2] == (len(a), len(b)) and len(b) * prod(core.shape) <= 1 << 28)
    return a.T.contiguous(), torch.einsum("ijhw,jc->ichw", core, b)


def _check(good: bool) -> None:
    if not good:
        raise RuntimeError("the sizes do not go together")
