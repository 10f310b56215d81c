"""A network and its reader of words: the same as both by hand; what is masked, what is null, what hooks see."""

import pytest
import torch

import sfumato as sf
from sfumato import InputError
from sfumato.core import from_config, to_config
from sfumato.nets import CaptionedConfig, LatentUNetConfig, PixArtConfig, WordEncoderConfig
from sfumato.nets.hooked import Hooked
from sfumato.nets.hooks import Subscriber, sites

TEXT = WordEncoderConfig(words=11, length=6, width=12, layers=2, heads=2)
INNER = PixArtConfig(size=8, out_channels=4, width=24, layers=2, heads=2, context=12)
UNET = LatentUNetConfig(
    widths=(16, 16), layers=1, transformers=(0, 1), heads=(2, 2), context=12, groups=4, in_channels=4, out_channels=4
)
TOKENS = torch.tensor([[3, 4, 5, 0, 0, 0], [9, 2, 2, 7, 8, 10]])


def build(config, seed=0):
    net = config.build().eval()
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return net


def inputs():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([3.0, 700.0])


def by_hand(encoder, tokens):
    """Return the states of each text alone, by PyTorch's own attention over its words and no others."""
    out = []
    for row in tokens:
        words = row[row != 0]
        h = torch.cat((encoder.start[None], encoder.table.weight[words])) + encoder.places[: 1 + len(words)]
        for block in encoder.blocks:
            q, k, v = block.qkv(block.norm_1(h)).chunk(3, -1)
            q, k, v = (t.unflatten(-1, (block.heads, -1)).transpose(0, 1) for t in (q, k, v))
            p = torch.softmax(q @ k.mT / q.shape[-1] ** 0.5, -1)
            h = h + block.proj((p @ v).transpose(0, 1).flatten(1))
            inner = block.mlp
            h = h + inner.fc2(torch.nn.functional.gelu(inner.fc1(block.norm_2(h)), approximate="tanh"))
        out.append(encoder.norm(h))
    return out


@torch.no_grad()
def test_a_text_is_read_as_if_it_were_alone():
    encoder = build(TEXT)
    states, mask = encoder(TOKENS)
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0], [1] * 7]
    for row, expected in enumerate(by_hand(encoder, TOKENS)):
        torch.testing.assert_close(states[row, : len(expected)], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_places_after_the_longest_text_are_not_computed():
    encoder = build(TEXT)
    both, _ = encoder(TOKENS)
    states, mask = encoder(TOKENS[:1])
    assert states.shape == (1, 4, 12)
    assert mask.tolist() == [[1] * 4]
    torch.testing.assert_close(states, both[:1, :4], rtol=1e-5, atol=1e-5)
    assert encoder(torch.zeros_like(TOKENS))[0].shape == (2, 1, 12)
    whole = torch.compile(encoder, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(TOKENS[:1])[0], both[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inner", [INNER, UNET])
@torch.no_grad()
def test_it_is_both_parts_one_after_the_other(inner):
    net, (x, c) = build(CaptionedConfig(text=TEXT, net=inner)), inputs()
    states, mask = net.text(TOKENS)
    expected = net.net(x, c, context=states, context_mask=mask)
    assert net(x, c, tokens=TOKENS).equal(expected)
    assert net.trunk(x, net.embed(c), **net.condition(tokens=TOKENS)).equal(expected)
    assert float((expected[0] - net(x, c, tokens=TOKENS.flip(0))[0]).abs().max()) > 1e-3


@torch.no_grad()
def test_what_stands_for_no_word_is_not_seen():
    net, (x, c) = build(CaptionedConfig(text=TEXT, net=INNER)), inputs()
    before = net(x, c, tokens=TOKENS)
    net.text.table.weight[0] += 5.0
    torch.testing.assert_close(net(x, c, tokens=TOKENS), before, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_null_is_the_empty_caption():
    net, (x, _) = build(CaptionedConfig(text=TEXT, net=INNER)), inputs()
    denoiser = sf.Preconditioned(net, sf.Rectified(), sf.Flow())
    assert denoiser.cond == {"tokens": 0}
    objective = sf.objectives.Denoising(drop=1.0)
    gone = objective.dropped(denoiser, sf.core.Batch(x, {"tokens": TOKENS}), sf.Noise(range(2)))
    assert gone["tokens"].equal(torch.zeros_like(TOKENS))
    guided = sf.guidance.ClassifierFree(denoiser=denoiser, scale=3.0)
    a, b = denoiser(x, 0.4, tokens=torch.zeros_like(TOKENS)), denoiser(x, 0.4, tokens=TOKENS)
    torch.testing.assert_close(guided(x, 0.4, tokens=TOKENS), a + 3 * (b - a), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_run_reads_the_caption_once():
    net = build(CaptionedConfig(text=TEXT, net=INNER))
    denoiser = sf.Preconditioned(net, sf.Rectified(), sf.Flow())
    calls = []
    net.text.register_forward_hook(lambda *_: calls.append(1))
    grid = sf.grids.uniform(denoiser.schedule, 4)
    sf.sample(denoiser, (2, 4, 8, 8), solver=sf.solvers.Euler(), grid=grid, seeds=range(2), cond={"tokens": TOKENS})
    assert len(calls) == 1


def test_sites_are_those_of_the_inner_network():
    inner, whole = sites(INNER.build()), sites(CaptionedConfig(text=TEXT, net=INNER).build())
    assert [s._replace(name=s.name.removeprefix("net.")) for s in whole] == inner
    unet = sites(UNET.build())
    assert [(s.stage, s.level) for s in sites(CaptionedConfig(text=TEXT, net=UNET).build())] == [
        (s.stage, s.level) for s in unet
    ]


@torch.no_grad()
def test_word_to_region_attention():
    class Record(Subscriber):
        def __init__(self):
            self.seen = []

        def probs(self, p, site, now):
            self.seen.append(p)
            return p

    net, (x, _) = build(CaptionedConfig(text=TEXT, net=INNER)), inputs()
    record = Record()
    denoiser = sf.Preconditioned(net, sf.Rectified(), sf.Flow())
    heard = Hooked(denoiser=denoiser, subscribe=[(lambda s: s.kind == "cross", record)])
    torch.testing.assert_close(heard(x, 0.4, tokens=TOKENS), denoiser(x, 0.4, tokens=TOKENS), rtol=1e-4, atol=1e-4)
    assert [p.shape for p in record.seen] == [(2, 2, 16, 7)] * 2  # 16 places, the start and six words
    assert float(record.seen[0][0, :, :, 4:].max()) == 0.0  # no word, no attention
    torch.testing.assert_close(record.seen[0].sum(-1), torch.ones(2, 2, 16))


def test_masked_attention_in_bf16_training_is_that_of_float32():
    """The plain products that training in bf16 on a CPU takes, with both kinds of mask, and heads of both sorts."""
    from sfumato.nets.blocks.attend import attend, seen

    g = torch.Generator().manual_seed(0)
    for head in (16, 64):
        q, k, v = (torch.randn(2, 3, n, head, generator=g).bfloat16() for n in (5, 7, 7))
        bits = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1] * 7])
        for mask in (seen(bits, torch.float32), seen(bits, torch.bfloat16), bits.bool()[:, None, None, :]):
            wide = mask if mask.dtype == torch.bool else mask.float()
            exact = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), wide)
            with torch.enable_grad():
                found = attend(q.clone().requires_grad_(), k, v, mask)
            assert found.dtype == torch.bfloat16
            torch.testing.assert_close(found.float(), exact, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: build(TEXT)(TOKENS[:, :5]), r"\[B, 6\]"),
        (lambda: build(TEXT)(TOKENS.float()), "whole numbers"),
        (lambda: build(TEXT)(TOKENS + 1), "0..10"),
        (lambda: build(CaptionedConfig(text=TEXT, net=INNER))(*inputs()), "needs|give tokens"),
        (lambda: CaptionedConfig(text=TEXT, net=PixArtConfig(width=24, heads=2, context=8)), "one width"),
        (lambda: WordEncoderConfig(words=3, width=10, heads=4), "multiple of heads"),
        (lambda: WordEncoderConfig(words=0), "WordEncoderConfig.words"),
    ],
)
def test_what_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_written_and_read_back():
    config = CaptionedConfig(text=TEXT, net=INNER)
    assert from_config(to_config(config)) == config


def test_it_compiles_whole():
    net, (x, c) = build(CaptionedConfig(text=TEXT, net=INNER)), inputs()
    whole = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(x, c, tokens=TOKENS), net(x, c, tokens=TOKENS), rtol=1e-4, atol=1e-5)
