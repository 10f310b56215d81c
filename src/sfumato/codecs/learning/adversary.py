"""The adversarial part of an autoencoder's training, in the same step and the same optimiser as the rest."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from ...core.config import register
from ...core.errors import InputError
from .critic import PatchCriticConfig, adaptive, generator, hinge, judged, last
from .learner import Learner


@register
@dataclass(frozen=True, kw_only=True)
class Adversary:
    """loss = weight lambda g(x~) + hinge(x, sg x~) from step `start` on, 0 before (arXiv 2012.09841, eq. 5 to 7).

    The codec's term g = -mean critic(x~) sees the critic's weights detached, the critic's hinge loss sees detached
    reconstructions, so one backward pass gives both their own gradients and one optimiser serves both. lambda is the
    ratio of the gradients' norms at the decoder's last layer (`adaptive`). Defaults: weight 0.5 and start 50,001, those
    of latent diffusion's configurations (arXiv 2112.10752); its critic has an optimiser of its own, set alike.
    Several processes need start = 0: they exchange the gradients of all weights in every step.
    """

    critic: PatchCriticConfig = field(default_factory=PatchCriticConfig)
    weight: float = 0.5
    start: int = 50_001

    def __post_init__(self) -> None:
        if self.weight < 0 or self.start < 0:
            raise InputError(f"Adversary.weight={self.weight} and start={self.start} must be at least 0")

    def parts(self) -> dict[str, nn.Module]:
        """Return the critic, freshly initialised."""
        return {"critic": self.critic.build()}

    def __call__(self, learner: Learner, x: Tensor, made: Tensor, near: Tensor, step: int) -> Tensor:
        """Return the loss[B] of pictures `x`, their reconstructions `made` and the reconstruction loss[B] `near`."""
        critic = learner.parts["critic"]
        if step < self.start:
            return near.new_zeros(len(near))
        fooled = generator(judged(critic, made))
        weight = self.weight * adaptive(near.mean(), fooled.mean(), last(learner.codec))
        return weight * fooled + hinge(critic(x), critic(made.detach()))
