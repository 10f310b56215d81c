"""A tiny class-conditional pipeline whose weights are all at work (fresh networks start as the identity)."""

import torch

import sfumato as sf
from sfumato.conditioning import Classes
from sfumato.nets import MLPConfig, UNetConfig
from sfumato.pipeline import Defaults, Points


def stirred(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    return net


def make(seed=0, **changes):
    config = UNetConfig(
        in_channels=1,
        out_channels=1,
        channels=8,
        multipliers=(1,),
        layers=1,
        attention=(),
        head_width=None,
        groups=2,
        num_classes=3,
        dropout=0.3,
    )
    denoiser = sf.Preconditioned(stirred(config.build(), seed), sf.VPCosine(), sf.V())
    parts = {
        "shape": (1, 4, 4),
        "conditioner": Classes(names=("cat", "dog", "7")),
        "defaults": Defaults(steps=3, guidance=2.0),
    }
    return sf.Pipeline(denoiser=denoiser, **{**parts, **changes})


def make_cloud():
    denoiser = sf.Preconditioned(stirred(MLPConfig(width=8, layers=1).build()), sf.VPLinear(), sf.Eps())
    return sf.Pipeline(denoiser=denoiser, shape=(2,), modality=Points(), defaults=Defaults(steps=3))
