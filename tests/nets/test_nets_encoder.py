"""The classifier is a U-Net's way down: its features are that network's own, on the same weights."""

import pytest
import torch

from sfumato.core import InputError, from_config, to_config
from sfumato.nets import EncoderConfig, UNetConfig
from sfumato.nets.encoder import digits_classifier


def config():
    unet = UNetConfig(
        in_channels=2, out_channels=2, channels=16, multipliers=(1, 2), layers=2, attention=(1,), head_width=8, groups=4
    )
    return EncoderConfig(unet=unet, classes=5)


def test_features_are_the_unets():
    torch.manual_seed(0)
    unet, encoder = config().unet.build(), config().build()
    for part in (encoder, unet):
        for p in part.parameters():
            torch.nn.init.normal_(p, std=0.1)
    shared = {
        k: v
        for k, v in unet.state_dict().items()
        if k in encoder.state_dict() and k.split(".")[0] not in ("time", "norm_out")
    }
    encoder.load_state_dict(shared, strict=False)
    count = sum(encoder.splits)
    encoder.time.load_state_dict({k: v[:count] for k, v in unet.time.state_dict().items()})
    x, c = torch.randn(3, 2, 9, 6), torch.tensor([3.0, 500.0, 900.0])
    seen = []
    unet.middle[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        unet(x, c)
        features = encoder.features(x, encoder.embed(c))
    torch.testing.assert_close(features, seen[0], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        normed = torch.nn.functional.silu(encoder.norm_out(features)).mean((2, 3))
        exact = normed @ encoder.out.weight.T + encoder.out.bias
        torch.testing.assert_close(encoder(x, c), exact, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(encoder.trunk(x[:1], encoder.embed(c[:1])), exact[:1], atol=1e-5, rtol=1e-5)


def test_it_starts_without_an_opinion_and_every_weight_learns():
    torch.manual_seed(0)
    net = digits_classifier().build()
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(net(x, torch.tensor([7.0])), torch.zeros(4, 10))
    assert sum(p.numel() for p in net.parameters()) == 130_282
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    net(x, torch.tensor([7.0])).square().sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in net.parameters())


def test_configuration():
    assert from_config(to_config(config())) == config()
    with pytest.raises(InputError, match="a classifier is not told the class"):
        EncoderConfig(unet=UNetConfig(num_classes=10), classes=10)
    with pytest.raises(InputError, match="at least 2"):
        EncoderConfig(unet=UNetConfig(), classes=1)
