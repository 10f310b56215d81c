"""PixArt: exact counts, its compression of keys and values, what is computed once a run, and what is refused."""

from dataclasses import replace

import pytest
import torch

import sfumato as sf
from sfumato import InputError
from sfumato.core import from_config, to_config
from sfumato.nets.pixart import Compression, KVCompression, PixArtConfig, pixart_alpha, pixart_sigma
from sfumato.pipeline.folder import empty

TINY = PixArtConfig(size=8, out_channels=4, width=24, layers=2, heads=2, context=12)


def build(config=TINY, seed=0):
    net = config.build().eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return net


def inputs(config=TINY, height=8, width=12):
    g = torch.Generator().manual_seed(1)
    cond = {"context": torch.randn(2, 5, 12, generator=g)}
    if config.sizes:
        cond["sizes"] = torch.tensor([[512.0, 768.0, 0.67], [1024.0, 640.0, 1.6]])
    return torch.randn(2, 4, height, width, generator=g), torch.tensor([3.0, 700.0]), cond


def count(config):
    return sum(p.numel() for p in empty(config, torch.float32).parameters())


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        (pixart_alpha(256), 610_856_096),
        (pixart_alpha(512), 610_856_096),
        (pixart_alpha(1024), 611_349_152),
        (pixart_sigma(1024), 610_856_096),
        # 14 layers more: windows of 2 x 2 for each of 1152 channels and their bias, and a norm
        (pixart_sigma(2048), 610_856_096 + 14 * 1152 * (4 + 1 + 2)),
    ],
)
def test_published_parameter_counts(config, parameters):
    assert count(config) == parameters
    assert from_config(to_config(config)) == config


def test_published_scales_of_the_places():
    assert [pixart_alpha(n).scale for n in (256, 512, 1024)] == [1.0, 1.0, 2.0]
    assert [pixart_sigma(n).scale for n in (256, 512, 1024, 2048)] == [0.5, 1.0, 2.0, 4.0]


def test_compression_starts_as_the_mean_of_each_window():
    layer = Compression(8, 2)
    grid = torch.randn(3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    means = grid.unflatten(1, (2, 2)).unflatten(3, (3, 2)).mean(dim=(2, 4))
    expected = torch.nn.functional.layer_norm(means.flatten(1, 2), (8,))
    torch.testing.assert_close(layer(grid.flatten(1, 2), 4), expected)


@torch.no_grad()
def test_compressed_keys_of_pictures_that_are_constant_in_windows():
    """With means for windows and no norm, compression changes nothing where all tokens of a window are equal."""
    config = replace(TINY, compression=KVCompression(layers=(0,)))
    narrow = build(config)
    layer = narrow.blocks[0].compression
    layer.windows.weight.fill_(0.25), layer.windows.bias.zero_()
    layer.norm = torch.nn.Identity()
    wide = TINY.build()
    wide.load_state_dict(narrow.state_dict(), strict=False)
    g = torch.Generator().manual_seed(3)
    tokens = torch.randn(1, 2, 3, 24, generator=g).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)
    six, keys = torch.randn(1, 6, 24, generator=g), narrow.blocks[0].cross.keys(torch.randn(1, 5, 24, generator=g))
    a = narrow.blocks[0](tokens.clone(), six, keys, None, 4)
    torch.testing.assert_close(a, wide.blocks[0](tokens.clone(), six, keys, None, 4), rtol=1e-4, atol=1e-4)
    other = torch.randn(tokens.shape, generator=g)
    changed = narrow.blocks[0](other.clone(), six, keys, None, 4) - wide.blocks[0](other.clone(), six, keys, None, 4)
    assert changed.abs().max() > 1e-2


def test_every_weight_of_the_compression_shows():
    net = build(replace(TINY, compression=KVCompression(layers=(1,))))
    x, t, cond = inputs()
    net(x, t, **cond).square().sum().backward()
    part = dict(net.blocks[1].compression.named_parameters())
    assert len(part) == 4
    assert all(p.grad.abs().max() > 1e-5 for p in part.values())


@pytest.mark.parametrize("sizes", [False, True])
@torch.no_grad()
def test_a_mask_hides_tokens_and_a_row_does_not_depend_on_its_neighbours(sizes):
    config = replace(TINY, sizes=sizes)
    net = build(config)
    x, t, cond = inputs(config)
    mask = torch.ones(2, 5)
    mask[0, 3:] = 0
    whole = net(x, t, **cond, context_mask=mask)
    alone = {key: value[:1] for key, value in cond.items()} | {"context": cond["context"][:1, :3]}
    torch.testing.assert_close(net(x[:1], t[:1], **alone), whole[:1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_prepared_run_is_the_plain_one():
    net = build(replace(TINY, sizes=False))
    x, _, cond = inputs()
    denoiser = sf.Preconditioned(net, sf.VPLinear(), sf.Eps())
    prepared = sf.core.prepare(denoiser, [0.3, 0.7])
    for t in (0.3, 0.7):
        expected = denoiser(x, t, **cond)
        assert (prepared(x, t, **cond) - expected).norm() < 1e-5 * expected.norm()


@torch.no_grad()
def test_the_learned_text_of_none_is_the_null_value():
    config = replace(TINY, null_tokens=5)
    net = build(config)
    x, _, cond = inputs()
    assert net.cond["context"] is net.null
    guided = sf.guidance.ClassifierFree(denoiser=sf.Preconditioned(net, sf.VPLinear(), sf.Eps()), scale=0.0)
    plain = sf.Preconditioned(net, sf.VPLinear(), sf.Eps())
    expected = plain(x, 0.5, context=net.null.expand(2, -1, -1))
    torch.testing.assert_close(guided(x, 0.5, **cond), expected, rtol=1e-4, atol=1e-4)
    assert build().cond["context"] is None


def test_compiles_without_a_break():
    config = replace(TINY, sizes=True, compression=KVCompression(layers=(0,)))
    net = build(config)
    x, t, cond = inputs(config)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager", fullgraph=True)(x, t, **cond), net(x, t, **cond))


def test_initialisation_gives_zero_and_a_text_that_is_not_read():
    torch.manual_seed(0)
    net = TINY.build()
    x, t, cond = inputs()
    assert not net(x, t, **cond).any()
    assert not net.blocks[0].cross.out.weight.any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: PixArtConfig(width=100, heads=16),
        lambda: PixArtConfig(width=32, heads=16, sizes=True),
        lambda: PixArtConfig(layers=4, compression=KVCompression()),
        lambda: KVCompression(factor=1),
        lambda: build()(torch.zeros(1, 4, 8, 9), torch.zeros(1), context=torch.zeros(1, 2, 12)),
        lambda: build()(torch.zeros(1, 3, 8, 8), torch.zeros(1), context=torch.zeros(1, 2, 12)),
        lambda: build()(torch.zeros(1, 4, 8, 8), torch.zeros(1)),
        lambda: build()(torch.zeros(1, 4, 8, 8), torch.zeros(1), context=torch.zeros(1, 2, 11)),
        lambda: build(replace(TINY, sizes=True)).condition(context=torch.zeros(1, 2, 12)),
    ],
)
def test_refused(make):
    with pytest.raises(InputError):
        make()
