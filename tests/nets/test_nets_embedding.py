"""The embeddings against their formulas, written out number by number."""

import math

import pytest
import torch

from sfumato.core import InputError, Noise, from_config, to_config
from sfumato.nets.blocks.embedding import (
    Fourier,
    LabelEmbedding,
    NoFeature,
    NoiseEmbedding,
    Raw,
    Sinusoidal,
    sincos_2d,
    sinusoidal,
)

LABELS = [0.0, 1.0, 0.37, 500.5, 999.0]


def waves(c, dim, shift, period=10_000.0):
    """Cosines and sines of c, as Python floats."""
    half = dim // 2
    phases = [c * math.exp(-math.log(period) * i / (half - shift)) for i in range(half)]
    return [math.cos(p) for p in phases], [math.sin(p) for p in phases]


VARIANTS = {
    # family: (settings, order of the halves, shift, factor on the label)
    "ddpm": (Sinusoidal(dim=128, sin_first=True, shift=1), "sin cos", 1, 1),
    "adm, ldm": (Sinusoidal(dim=192), "cos sin", 0, 1),
    "dit": (Sinusoidal(dim=256), "cos sin", 0, 1),
    "sd3": (Sinusoidal(dim=256, scale=1000), "cos sin", 0, 1000),
    "lcm": (Sinusoidal(dim=256, sin_first=True, shift=1, scale=1000), "sin cos", 1, 1000),
}


@pytest.mark.parametrize("family", VARIANTS)
def test_published_sinusoids(family):
    config, order, shift, factor = VARIANTS[family]
    features = config.build(1)
    got = features(torch.tensor(LABELS, dtype=torch.float64)[:, None])
    assert features.dim == config.dim == got.shape[-1]
    for c, row in zip(LABELS, got, strict=True):
        cos, sin = waves(c * factor, config.dim, shift)
        expected = torch.tensor(sin + cos if order == "sin cos" else cos + sin, dtype=torch.float64)
        assert (row - expected).abs().max() < 1e-9
    single = features(torch.tensor(LABELS)[:, None])
    assert single.dtype == torch.float32
    assert (single - got).abs().max() < 2e-4 * factor  # 1000 rad in float32 is known to 6e-5


def test_max_period_is_the_last_wavelength_of_ddpm():
    c = torch.tensor([math.pi * 100 / 2], dtype=torch.float64)
    assert sinusoidal(c, 8, max_period=100.0, sin_first=True, shift=1)[0, 3] == pytest.approx(1.0)


def test_released_rounding():
    peer = pytest.importorskip("diffusers.models.embeddings")
    t = torch.arange(0, 1000, 7).float()
    for flip, shift in ((True, 0), (False, 1), (True, 1), (False, 0)):
        theirs = peer.get_timestep_embedding(t, 64, flip_sin_to_cos=flip, downscale_freq_shift=shift)
        assert torch.equal(sinusoidal(t, 64, sin_first=not flip, shift=shift), theirs)


def test_half_precision_networks_still_see_single_precision_phases():
    net = NoiseEmbedding(Sinusoidal(dim=64), 8).to(torch.bfloat16)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape) * 0.3)
    exact = NoiseEmbedding(Sinusoidal(dim=64), 8)
    exact.load_state_dict({k: v.float() for k, v in net.state_dict().items()})
    c = torch.tensor([999.0, 1001.0])  # both 1000 in bfloat16
    out = net(c)
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact(c)).abs().max() < 0.05
    assert not torch.equal(out[0], out[1])


def test_noise_embedding_is_its_formula():
    net = NoiseEmbedding(Sinusoidal(dim=6, sin_first=True, shift=1), 5, hidden=7)
    w1, b1, w2, b2 = net.mlp[0].weight, net.mlp[0].bias, net.mlp[2].weight, net.mlp[2].bias
    assert (w1.shape, w2.shape) == ((7, 6), (5, 7))
    cos, sin = waves(321.0, 6, 1)
    u = w1 @ torch.tensor(sin + cos) + b1
    expected = w2 @ (u * torch.sigmoid(u)) + b2
    assert torch.allclose(net(torch.tensor([321.0]))[0], expected, atol=1e-5)


def test_sincos_2d_puts_the_column_first():
    dim, height, width = 16, 3, 5
    table = sincos_2d(dim, height, width)
    assert table.shape == (height * width, dim)
    for r in range(height):
        for c in range(width):
            expected = []
            for place in (c, r):
                phases = [place * 10_000 ** (-i / (dim // 4)) for i in range(dim // 4)]
                expected += [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
            assert torch.allclose(table[r * width + c], torch.tensor(expected), atol=1e-6)


def test_sincos_2d_is_that_of_released_models():
    peer = pytest.importorskip("diffusers.models.embeddings")
    theirs = peer.get_2d_sincos_pos_embed(32, 6, base_size=6, output_type="pt").float()
    assert (sincos_2d(32, 6, 6) - theirs).abs().max() < 1e-6
    stretched = peer.get_2d_sincos_pos_embed(32, (6, 10), base_size=8, interpolation_scale=2, output_type="pt").float()
    assert (sincos_2d(32, 6, 10, base=8, scale=2.0) - stretched).abs().max() < 1e-5
    assert (sincos_2d(32, 6, 10, base=8) - stretched).abs().max() > 0.1


def test_fourier_is_its_formula_and_draws_normal_rows():
    features = Fourier(count=4000, scale=3.0, seed=5).build(2)
    x = torch.tensor([[0.3, -0.7]])
    phase = features.B[:, 0] * 0.3 - features.B[:, 1] * 0.7
    assert torch.allclose(features(x)[0], torch.cat([phase.sin(), phase.cos()]), atol=1e-5)
    assert torch.equal(features.B, 3.0 * Noise([5]).normal((1, 4000, 2), "fourier")[0])
    assert features.B.mean().abs() < 4 * 3.0 / math.sqrt(8000)
    assert features.B.std() == pytest.approx(3.0, rel=4 / math.sqrt(2 * 8000))
    assert not torch.equal(features.B, Fourier(count=4000, scale=3.0, seed=6).build(2).B)


def test_fourier_expresses_ncsnpp():
    # sin, cos of 2 pi W ln sigma with W ~ N(0, 16^2)
    unit = Fourier(count=8).build(1).B[:, 0]
    features = Fourier(count=8, scale=2 * math.pi * 16).build(1)
    log_sigma = torch.tensor([[-1.3]], dtype=torch.float64)
    phase = 2 * math.pi * (16 * unit.double()) * -1.3
    assert torch.allclose(features(log_sigma)[0], torch.cat([phase.sin(), phase.cos()]), atol=1e-4)


def test_fourier_frequencies_are_saved_and_survive_half_precision():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    features = Fourier(count=8, seed=1).build(2)
    assert torch.equal(before, torch.get_rng_state())  # the global generator is not touched
    frequencies = features.B.clone()
    assert list(features.state_dict()) == ["B"]
    assert torch.equal(features.to(torch.bfloat16).B, frequencies)
    assert torch.equal(features.double().B, frequencies)
    loaded = Fourier(count=8, seed=2).build(2)
    loaded.load_state_dict(features.state_dict())
    assert torch.equal(loaded.B, frequencies)


def test_fourier_on_the_meta_device():
    features = Fourier(count=8).build(2).to("meta").to_empty(device="cpu")
    assert features.B.shape == (8, 2)
    assert features.B.dtype == torch.float32


def test_raw_and_no_feature():
    x = torch.tensor([[1.0, 2.0]])
    assert torch.equal(Raw().build(2)(x), x)
    assert torch.equal(Raw(scale=0.5, shift=-1.0).build(2)(x), torch.tensor([[-0.5, 0.0]]))
    assert Raw().build(2).dim == 2
    assert NoFeature().build(1)(torch.ones(3, 1)).shape == (3, 0)
    assert NoFeature().build(1).dim == 0


def test_label_embedding_rows():
    table = LabelEmbedding(10, 4)
    weight = table.table.weight
    assert weight.shape == (11, 4)
    assert table.null == 10
    assert torch.equal(table(torch.tensor([3, 10, 0])), weight[[3, 10, 0]])
    assert torch.equal(table(None), weight[10:])
    assert torch.equal(table(7), weight[7:8])
    wide = LabelEmbedding(999, 100).table.weight
    assert float(wide.detach().std()) == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("y", [torch.tensor([11]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor([[1]]), 12])
def test_label_embedding_refuses(y):
    with pytest.raises(InputError, match="class labels y"):
        LabelEmbedding(10, 4)(y)


@pytest.mark.parametrize(
    "config", [NoFeature(), Raw(scale=2.0), Sinusoidal(dim=8, shift=1.0), Fourier(count=3, scale=2.0, seed=4)]
)
def test_round_trip(config):
    assert from_config(to_config(config)) == config


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sinusoidal(dim=7),
        lambda: Sinusoidal(dim=2, shift=1),
        lambda: Sinusoidal(dim=8).build(2),
        lambda: Fourier(count=0),
        lambda: sincos_2d(6, 2, 2),
        lambda: LabelEmbedding(0, 4),
    ],
)
def test_refused(make):
    with pytest.raises(InputError):
        make()
