"""A codebook that follows the latents by moving averages, and revives what nobody uses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.noise import Noise, fold


class Follower(nn.Module):
    """A codebook's running sums: N_i <- g N_i + (1 - g) n_i, m_i <- g m_i + (1 - g) sum of i's z, e_i = m_i / N_i.

    (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1, eq. 6 to 8.) n_i places of the batch have code i. N is
    smoothed as in its code, (N_i + a) / (N + K a) N for N = sum N_i, so that no code divides by nothing. A code whose
    N_i fell below `revive` of an even share takes the place of one of the batch's latents, with an even share of its
    own (Dhariwal et al. 2020, arXiv 2005.00341, section 3.1); before the first step all codes have.

    As a batch normalisation's, these are buffers that a training step's forward pass moves, saved with the
    weights; of several processes the first one's latents count.
    """

    counts: Tensor
    sums: Tensor

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, width))

    @torch.no_grad()
    def follow(
        self,
        codebook: Tensor,
        places: Tensor,
        codes: Tensor,
        noise: Noise,
        *,
        decay: float,
        smooth: float,
        revive: float,
    ) -> None:
        """Move the `codebook` [K, D] in place by latents `places` [P, D] and their `codes` int64[P].

        Latents that are not finite move nothing: such a step is left out.
        """
        if not bool(torch.isfinite(places).all()):
            return
        hot = F.one_hot(codes, len(codebook)).to(places.dtype)
        self.counts.lerp_(hot.sum(0), 1 - decay)
        self.sums.lerp_(hot.T @ places, 1 - decay)
        even = len(places) / len(codebook)
        dead = self.counts < revive * even
        if bool(dead.any()):
            chosen = places[shuffled(len(places), int(dead.sum()), noise)]
            self.counts[dead] = even
            self.sums[dead] = even * chosen
        total = self.counts.sum()
        smoothed = (self.counts + smooth) / (total + len(codebook) * smooth) * total
        codebook.copy_(self.sums / smoothed[:, None])


def shuffled(rows: int, count: int, noise: Noise) -> Tensor:
    """Return int64[count] numbers below `rows`, shuffled by the first seed, and over again where there are too few."""
    keys = Noise([fold(noise.seeds[0], "revive")]).normal((1, rows), "order")[0]
    return torch.argsort(keys, stable=True)[torch.arange(count) % rows]
