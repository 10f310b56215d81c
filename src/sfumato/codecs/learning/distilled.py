"""Training a tiny autoencoder to read and make another codec's latents (TAESD; it has no paper)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...core.config import register
from ...core.denoiser import Batch
from ...core.errors import InputError
from ...core.noise import Noise
from ..codec import Codec
from ..folder import load_codec
from .adversary import Adversary
from .learner import Learner
from .perceptual import PerceptualConfig
from .stepped import Stepped


@register
@dataclass(frozen=True, kw_only=True)
class Distilling(Stepped):
    """loss = mean |y - x~| + `perceptual` d_features(y, x~) + `encoder` mean (z - z~)^2 + the adversary's.

    z = the latents of the `teacher` (a folder of `save_codec`) for the picture x, y = its decode(z); x~ = decode(z) and
    z~ = encode(x) of the codec that learns: a decoder that paints what the teacher paints, and an encoder that reads
    what it reads, in its units. y stands in for x, since the small decoder is to replace the large one, not to
    outdo it. Raises `InputError` for a teacher of other latents.
    """

    teacher: str
    perceptual: float = 1.0
    encoder: float = 1.0
    eye: PerceptualConfig = field(default_factory=PerceptualConfig)
    adversary: Adversary | None = None

    def parts(self, codec: Codec) -> dict[str, nn.Module]:
        """Return the teacher, which is not trained, the perceptual features, and the critic."""
        teacher = load_codec(self.teacher, torch.float32).requires_grad_(False)
        if (teacher.factor, teacher.channels) != (codec.factor, codec.channels):
            raise InputError(
                f"the teacher's latents have {teacher.channels} channels on 1/{teacher.factor} of the size, those "
                f"that are learned {codec.channels} on 1/{codec.factor}: change `latent` or the depth of the codec"
            )
        parts: dict[str, nn.Module] = {"teacher": teacher, "eye": self.eye.build()}
        return parts if self.adversary is None else parts | self.adversary.parts()

    def loss(self, learner: Learner, batch: Batch, noise: Noise, step: int) -> Tensor:
        """Return the loss[B]."""
        codec, teacher = learner.codec, learner.parts["teacher"]
        assert isinstance(teacher, Codec)
        with torch.no_grad():
            z = teacher.encode(batch.x0, noise)
            y = teacher.decode(z).float()
        made = codec.decode(z).float()
        near = (y - made).abs().flatten(1).mean(1) + self.perceptual * learner.parts["eye"](y, made)
        read = (z - codec.posterior(batch.x0)[0]).square().flatten(1).mean(1)
        loss = near + self.encoder * read
        return loss if self.adversary is None else loss + self.adversary(learner, y, made, near, step)
