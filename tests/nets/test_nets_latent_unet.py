"""The U-Net of latent diffusion on squares of latents: the same network on what they are side by side in channels."""

from dataclasses import replace

import pytest
import torch

from sfumato import InputError
from sfumato.interop.diffusers import latent_unet
from sfumato.nets import LatentUNetConfig

CONFIG = LatentUNetConfig(
    widths=(16, 32), layers=1, transformers=(1, 0), heads=(2, 4), context=12, groups=8, convolved=False, patch=2
)


def squares(x):
    """Return [B, 4 C, H / 2, W / 2] of x: channel c, then row, then column of a square."""
    parts = [x[:, c : c + 1, i::2, j::2] for c in range(x.shape[1]) for i in (0, 1) for j in (0, 1)]
    return torch.cat(parts, 1)


@torch.no_grad()
@pytest.mark.parametrize("extra", [0, 1])
def test_squares_are_channels(extra):
    generator = torch.Generator().manual_seed(0)
    ours = replace(CONFIG, extra=extra).build().eval()
    other = replace(CONFIG, patch=1, in_channels=16, out_channels=16, extra=4 * extra).build().eval()
    for p in ours.parameters():
        p.copy_(torch.randn(p.shape, generator=generator) * 0.2)
    other.load_state_dict(ours.state_dict())
    x, beside = (torch.randn(2, c, 8, 12, generator=generator) for c in (4, extra))
    cond = {"context": torch.randn(2, 5, 12, generator=generator)}
    t = torch.tensor([3.0, 700.0])
    out = ours(x, t, **cond, **({"extra": beside} if extra else {}))
    same = other(squares(x), t, **cond, **({"extra": squares(beside)} if extra else {}))
    assert out.shape == x.shape
    torch.testing.assert_close(squares(out), same, rtol=1e-5, atol=1e-5)


def test_diffusers_cannot_say_it():
    with pytest.raises(InputError, match="no U-Net on squares of latents"):
        latent_unet.write(CONFIG)
    assert latent_unet.write(replace(CONFIG, patch=1))["in_channels"] == 4
