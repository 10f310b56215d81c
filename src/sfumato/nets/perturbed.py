"""Self-attention that does not look around: what perturbed-attention guidance compares with."""

from __future__ import annotations

import torch
from torch import Tensor

from .hooks import Moment, Site, Subscriber


class Perturbed(Subscriber):
    """At a self-attention: each token attends to itself alone, so that its own value comes out (arXiv 2403.17377).

    Guidance away from such a network, `SkipLayer(denoiser=guided, bad=Hooked(denoiser=plain, subscribe=[(lambda site:
    site.kind == "self" and site.stage == "middle", Perturbed())]), scale=3.0)`, is the paper's: structure that needs
    looking around is what the difference adds. The middle of a U-Net and a scale of 3 are its choice (section 5).
    """

    replaces = frozenset({"kv"})

    def kv(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, site: Site, now: Moment
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return queries, keys and values with a mask of the diagonal."""
        return q, k, v, torch.eye(q.shape[-2], dtype=torch.bool, device=q.device)
