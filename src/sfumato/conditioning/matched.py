"""Conditions of one length, so that prompts and those to avoid fit in one batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..core.errors import InputError
from .conditioner import Encoded


def matched(*encoded: Encoded) -> tuple[Encoded, ...]:
    """Return the same conditions with sequences of one length: what is added is zero, and masked.

    For each key whose tensors are sequences [n, T, width] of different T, and their `<key>_mask` [n, T]. A network
    that reads the mask gives each row what it would give alone. Raises `InputError` for keys or widths that differ.
    """
    keys = [{k for k in e.cond if not k.endswith("_mask")} for e in encoded]
    if any(k != keys[0] for k in keys):
        raise InputError(f"conditions of one batch must have the same keys, got {' and '.join(map(str, keys))}")
    conds = [dict(e.cond) for e in encoded]
    for key in sorted(keys[0]):
        _match(conds, key)
    return tuple(Encoded(cond, e.notes) for cond, e in zip(conds, encoded, strict=True))


def _match(conds: list[dict[str, Tensor]], key: str) -> None:
    """Bring the sequences `key` of all conditions to the longest."""
    tensors, mask = [cond[key] for cond in conds], f"{key}_mask"
    if len({t.shape[2:] if t.ndim == 3 else t.shape[1:] for t in tensors}) != 1:
        raise InputError(f"conditions of one batch must be of one width, {key} is {[list(t.shape) for t in tensors]}")
    if tensors[0].ndim != 3:
        return
    longest = max(t.shape[1] for t in tensors)
    if all(t.shape[1] == longest for t in tensors) and len({mask in cond for cond in conds}) == 1:
        return
    for cond, tensor in zip(conds, tensors, strict=True):
        gap = longest - tensor.shape[1]
        seen = cond.get(mask)
        seen = torch.ones(tensor.shape[:2], dtype=torch.int64, device=tensor.device) if seen is None else seen
        cond[key], cond[mask] = pad(tensor, (0, 0, 0, gap)), pad(seen, (0, gap))
