"""The identity laws of hooks, on every network that takes them; and that each event does what it says."""

import pytest
import torch

import sfumato as sf
from sfumato import InputError
from sfumato.guidance import ClassifierFree
from sfumato.nets.blocks.embedding import Sinusoidal
from sfumato.nets.diffit import DiffiTConfig
from sfumato.nets.diffit_unet import DiffiTUNetConfig
from sfumato.nets.dit import CrossAttention, DiTConfig
from sfumato.nets.hooked import Hooked
from sfumato.nets.hooks import Branch, Hooks, Subscriber, Subscriptions, sites
from sfumato.nets.hunyuan_dit import HunyuanDiTConfig
from sfumato.nets.latent_unet import LatentUNetConfig
from sfumato.nets.lumina import LuminaConfig
from sfumato.nets.mmdit import MMDiTConfig
from sfumato.nets.perturbed import Perturbed
from sfumato.nets.pixart import PixArtConfig
from sfumato.nets.uvit import UViTConfig


def _scrambled(net):
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.2 + (p.ndim == 1) * 0.5)
    return net.eval()


def _unet():
    config = LatentUNetConfig(
        widths=(16, 32), layers=1, transformers=(1, 1), heads=(2, 4), context=12, groups=8, convolved=False
    )
    g = torch.Generator().manual_seed(1)
    return (
        _scrambled(config.build()),
        torch.randn(2, 4, 8, 8, generator=g),
        {"context": torch.randn(2, 5, 12, generator=g)},
    )


def _mmdit():
    config = MMDiTConfig(
        channels=4,
        out_channels=4,
        layers=3,
        heads=2,
        head_width=8,
        context=12,
        pooled=6,
        positions=6,
        normed=True,
        dual=(1,),
    )
    g = torch.Generator().manual_seed(1)
    return (
        _scrambled(config.build()),
        torch.randn(2, 4, 8, 8, generator=g),
        {"context": torch.randn(2, 5, 12, generator=g), "pooled": torch.randn(2, 6, generator=g)},
    )


def _dit():
    config = DiTConfig(size=8, width=32, layers=2, heads=2, num_classes=5)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return _scrambled(config.build()), x, {"y": torch.tensor([1, 4])}


def _dit_cross():
    config = DiTConfig(
        size=8, width=32, layers=2, heads=2, num_classes=5, conditioning=CrossAttention(), time=Sinusoidal(dim=16)
    )
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return _scrambled(config.build()), x, {"y": torch.tensor([1, 4])}


def _pixart():
    config = PixArtConfig(size=8, out_channels=4, width=24, layers=2, heads=2, context=12)
    g = torch.Generator().manual_seed(1)
    return (
        _scrambled(config.build()),
        torch.randn(2, 4, 8, 8, generator=g),
        {"context": torch.randn(2, 5, 12, generator=g)},
    )


def _hunyuan():
    config = HunyuanDiTConfig(
        out_channels=4,
        width=16,
        layers=4,
        heads=2,
        hidden=24,
        context=12,
        tokens=3,
        context_2=8,
        tokens_2=4,
        pooled=6,
        styles=0,
    )
    g = torch.Generator().manual_seed(1)
    cond = {"context": torch.randn(2, 3, 12, generator=g), "context_2": torch.randn(2, 4, 8, generator=g)}
    return _scrambled(config.build()), torch.randn(2, 4, 8, 8, generator=g), cond


def _lumina():
    config = LuminaConfig(width=48, layers=2, heads=4, kv_heads=2, context=12, multiple=16, base=3)
    g = torch.Generator().manual_seed(1)
    return (
        _scrambled(config.build()),
        torch.randn(2, 4, 8, 8, generator=g),
        {"context": torch.randn(2, 5, 12, generator=g)},
    )


def _uvit():
    config = UViTConfig(size=8, channels=4, width=16, layers=5, heads=2, num_classes=4)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return _scrambled(config.build()), x, {"y": torch.tensor([1, 3])}


def _diffit(config):
    def case():
        net = _scrambled(config.build())
        for name, p in net.named_parameters():
            if name.endswith("attn.bias"):  # a branch has no biases of places
                p.zero_()
        g = torch.Generator().manual_seed(1)
        return net, torch.randn(2, net.config.out_channels, 8, 8, generator=g), {"y": torch.tensor([1, 4])}

    return case


_LATENT = DiffiTConfig(size=8, out_channels=4, width=16, layers=2, heads=2, num_classes=4)
_PICTURES = DiffiTUNetConfig(
    channels=8, multipliers=(1, 2), layers=1, windows=(4, 2), head_width=4, groups=4, num_classes=4
)

NETS = {
    "unet": _unet,
    "mmdit": _mmdit,
    "lumina": _lumina,
    "dit": _dit,
    "dit-cross": _dit_cross,
    "pixart": _pixart,
    "hunyuan": _hunyuan,
    "uvit": _uvit,
    "diffit": _diffit(_LATENT),
    "diffit-unet": _diffit(_PICTURES),
}
ATTENTION = ("self", "cross", "joint")


@pytest.fixture(params=NETS)
def case(request):
    with torch.no_grad():
        yield NETS[request.param]()


def _run(net, x, cond, *pairs):
    hooks = Subscriptions(net, pairs).at(Hooks({}).now) if pairs else None
    return net(x, torch.tensor([300.0, 10.0]), **cond, **({} if hooks is None else {"hooks": hooks}))


def _attention(site):
    return site.kind in ATTENTION


class Silent(Subscriber):
    pass


class Looking(Subscriber):
    def __init__(self):
        self.rows = []

    def probs(self, p, site, now):
        self.rows.append(p.sum(-1))
        return p


def test_without_subscribers_the_bare_network_bit_for_bit(case):
    net, x, cond = case
    plain = _run(net, x, cond)
    assert torch.equal(net(x, torch.tensor([300.0, 10.0]), **cond, hooks=Hooks({})), plain)
    assert torch.equal(_run(net, x, cond, (lambda s: True, Silent())), plain)


def test_explicit_probabilities_are_the_fused_kernel(case):
    net, x, cond = case
    look = Looking()
    torch.testing.assert_close(_run(net, x, cond, (_attention, look)), _run(net, x, cond), rtol=1e-5, atol=1e-5)
    assert len(look.rows) == len([s for s in sites(net) if _attention(s)])
    assert all(torch.allclose(r, torch.ones_like(r), atol=1e-5) for r in look.rows)


def test_a_branch_of_scale_zero_is_plain_and_one_of_the_same_keys_doubles_the_output(case):
    net, x, cond = case

    class Adapter(Subscriber):
        def __init__(self, scale):
            self.scale, self.kv_seen = scale, None

        def kv(self, q, k, v, mask, site, now):
            self.kv_seen = k, v
            return q, k, v, mask

        def branches(self, q, site, now):
            return [Branch(*self.kv_seen, self.scale)]

    class Doubled(Subscriber):
        def kv(self, q, k, v, mask, site, now):
            return q, k, 2 * v, mask

    plain = _run(net, x, cond)
    assert torch.equal(_run(net, x, cond, (_attention, Adapter(0.0))), plain)
    torch.testing.assert_close(
        _run(net, x, cond, (_attention, Adapter(1.0))),
        _run(net, x, cond, (_attention, Doubled())),
        rtol=1e-4,
        atol=1e-5,
    )


def test_before_answers_from_a_cache_and_skips_the_work(case):
    net, x, cond = case

    class Cache(Subscriber):
        def __init__(self):
            self.kept, self.hits = {}, 0

        def before(self, x, site, now):
            self.hits += site.name in self.kept
            return self.kept.get(site.name)

        def out(self, y, site, now):
            return self.kept.setdefault(site.name, y.clone())

    cache = Cache()
    first = _run(net, x, cond, (_attention, cache))
    assert torch.equal(first, _run(net, x, cond))
    assert torch.equal(_run(net, x, cond, (_attention, cache)), first)
    assert cache.hits == len(cache.kept) > 0


def test_a_tap_returns_what_the_next_block_sees(case):
    net, x, cond = case

    class Keep(Subscriber):
        def __init__(self):
            self.kept = {}

        def after(self, h, site, now):
            self.kept[site.name] = h.clone()
            return h

    class Put(Subscriber):
        def __init__(self, kept):
            self.kept = kept

        def after(self, h, site, now):
            return self.kept[site.name]

    keep = Keep()
    block = [s for s in sites(net) if s.kind in ("residual", "block")][1]
    assert torch.equal(_run(net, x, cond, (lambda s: s == block, keep)), _run(net, x, cond))
    assert torch.equal(_run(net, x, cond, (lambda s: s == block, Put(keep.kept))), _run(net, x, cond))
    kept = keep.kept[block.name]  # noise, as a layer norm would not see a shift
    other = {block.name: kept + torch.randn(kept.shape, generator=torch.Generator().manual_seed(5))}
    assert not torch.allclose(_run(net, x, cond, (lambda s: s == block, Put(other))), _run(net, x, cond))


def test_what_a_subscriber_keeps_or_puts_is_not_written_over(case):
    net, x, cond = case

    class Keep(Subscriber):
        def __init__(self):
            self.kept, self.copies = [], []

        def after(self, h, site, now):
            self.kept.append(h)
            self.copies.append(h.clone())
            return h

        out = after

    keep = Keep()
    _run(net, x, cond, (lambda s: True, keep))
    assert len(keep.kept) == len(sites(net))
    assert all(torch.equal(a, b) for a, b in zip(keep.kept, keep.copies, strict=True))


def test_two_that_replace_one_event_and_a_selector_that_picks_nothing_are_refused(case):
    net, x, cond = case

    class Replaces(Subscriber):
        replaces = frozenset({"probs"})

    with pytest.raises(InputError, match="both replace 'probs'"):
        _run(net, x, cond, (_attention, Replaces()), (_attention, Replaces()))
    with pytest.raises(InputError, match="picks no site"):
        _run(net, x, cond, (lambda s: s.kind == "nothing", Silent()))


def test_site_names_are_stable_and_orders_count_from_zero(case):
    net = case[0]
    listed = sites(net)
    assert len({s.name for s in listed}) == len(listed)
    for kind in {s.kind for s in listed}:
        assert [s.order for s in listed if s.kind == kind] == list(range(sum(s.kind == kind for s in listed)))
    assert {s.stage for s in listed} <= {"down", "middle", "up", "trunk"}


def test_a_run_tells_subscribers_its_moments_and_the_roles_of_its_rows(case):
    net, x, cond = case

    class Log(Subscriber):
        def __init__(self):
            self.seen = []

        def after(self, h, site, now):
            self.seen.append((now.step, now.steps, now.t, tuple(now.rows), len(h)))
            return h

    log = Log()
    first = next(s for s in sites(net) if s.kind in ("residual", "block"))
    plain = sf.Preconditioned(net, sf.VPLinear(), sf.Eps())
    hooked = Hooked(denoiser=plain, subscribe=[(lambda s: s == first, log)])
    grid = sf.grids.uniform(plain.schedule, 3)
    null = {key: torch.zeros_like(value) for key, value in cond.items()}
    settings = {"solver": sf.solvers.DDIM(), "grid": grid, "seeds": [1, 2], "x": x, "cond": cond}
    guided = sf.sample(ClassifierFree(denoiser=hooked, scale=3.0, null=null), **settings)
    assert torch.equal(guided, sf.sample(ClassifierFree(denoiser=plain, scale=3.0, null=null), **settings))
    assert [(step, steps) for step, steps, *_ in log.seen] == [(0, 3), (1, 3), (2, 3)]
    assert [t for _, _, t, *_ in log.seen] == grid.tolist()[:3]
    assert [(r.role, r.sample) for r in log.seen[0][3]] == [("cond", 0), ("cond", 1), ("null", 0), ("null", 1)]
    assert log.seen[0][4] == 4


def test_perturbed_attention_gives_each_token_its_own_value(case):
    net, x, cond = case

    class Own(Subscriber):
        def kv(self, q, k, v, mask, site, now):
            self.v = v
            return q, k, v, mask

        def probs(self, p, site, now):
            return torch.eye(p.shape[-1]).expand_as(p)

    def itself(site):
        return site.kind == "self"

    if not any(itself(s) for s in sites(net)):
        pytest.skip("it has no self-attention")
    explicit, masked = _run(net, x, cond, (itself, Own())), _run(net, x, cond, (itself, Perturbed()))
    torch.testing.assert_close(masked, explicit, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(masked, _run(net, x, cond), atol=1e-3)
