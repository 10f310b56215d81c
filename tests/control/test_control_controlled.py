"""The laws of steering: nothing at zero, sums where two steer, a window in a run, who listens hears what follows."""

import pytest
import torch

import sfumato as sf
from sfumato import InputError
from sfumato.control import Controlled, SD3ControlNetConfig
from sfumato.control.sd3_controlnet import copied, sd3_instantx, sd35_large_stability
from sfumato.guidance import ClassifierFree
from sfumato.nets.hooked import Hooked
from sfumato.nets.hooks import Subscriber
from sfumato.nets.mmdit import MMDiTConfig
from sfumato.pipeline.folder import empty

HOST = MMDiTConfig(
    channels=4, out_channels=4, layers=4, heads=2, head_width=8, context=12, pooled=6, positions=6, normed=True
)


def _random(net, seed):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.2 + (p.ndim == 1) * 0.5)
    return net.eval()


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(3)
    plain = sf.Preconditioned(_random(HOST.build(), 0), sf.Rectified(), sf.Flow())
    cond = {"context": torch.randn(2, 5, 12, generator=g), "pooled": torch.randn(2, 6, generator=g)}
    x, hint = torch.randn(2, 2, 4, 8, 8, generator=g)
    with torch.no_grad():
        yield plain, x, hint, cond


def _control(seed=1, **change):
    config = SD3ControlNetConfig(
        channels=4, layers=2, heads=2, head_width=8, context=12, pooled=6, positions=6, normed=True, **change
    )
    return _random(config.build(), seed)


def _run(denoiser, x, cond, steps=4):
    grid = sf.grids.uniform(denoiser.schedule, steps)
    return sf.sample(denoiser, solver=sf.solvers.Euler(), grid=grid, seeds=[1, 2], x=x, cond=cond)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (sd3_instantx(), 538_805_760),
        # time, pooled text and hint; blocks of 18 D^2 + 15 D; outputs of D^2 + D
        (
            sd35_large_stability(),
            (d := 2432) * (257 + 2049 + 2 * (d + 1) + 65) + 19 * (18 * d * d + 15 * d + d * d + d),
        ),
    ],
)
def test_the_published_sizes(config, count):
    assert sum(p.numel() for p in empty(config, torch.float16).parameters()) == count


def test_a_fresh_copy_scale_0_and_a_window_that_is_closed_are_plain_bit_for_bit(case):
    plain, x, hint, cond = case
    expected = _run(plain, x, cond)
    fresh = copied(plain.net, 2)
    assert torch.equal(_run(Controlled(denoiser=plain, control=fresh, hint=hint), x, cond), expected)
    own = fresh.state_dict()
    shared = [name for name in plain.net.state_dict() if name in own and "blocks.3" not in name]
    assert {"text.weight", "patches.table", "blocks.1.attn.text.norm_k.weight"} <= set(shared)
    assert all(torch.equal(own[name], plain.net.state_dict()[name]) for name in shared)
    for setting in ({"scale": 0.0}, {"end": 0.0}, {"start": 1.0}, {"start": 0.3, "end": 0.45}):
        steered = Controlled(denoiser=plain, control=_control(), hint=hint, **setting)
        assert torch.equal(_run(steered, x, cond), expected)
    steered = Controlled(denoiser=plain, control=_control(), hint=hint)
    assert not torch.allclose(_run(steered, x, cond), expected)


def test_a_window_steers_in_its_share_of_the_steps(case):
    plain, x, hint, cond = case
    always = Controlled(denoiser=plain, control=_control(), hint=hint)
    for start, end, steered in ((0.0, 0.5, (1, 1, 0, 0)), (0.25, 1.0, (0, 1, 1, 1)), (0.2, 0.8, (0, 1, 1, 0))):
        windowed = Controlled(denoiser=plain, control=_control(), hint=hint, start=start, end=end)
        # Euler by hand: each step with the one denoiser or the other
        times, h = sf.grids.uniform(plain.schedule, 4).tolist(), x
        for k, on in enumerate(steered):
            x0 = (always if on else plain)(h, times[k], **cond)
            h = h + (times[k + 1] - times[k]) * (h - x0) / times[k]
        torch.testing.assert_close(_run(windowed, x, cond), h, rtol=1e-5, atol=1e-5)


def test_two_controls_add_up_in_any_order_and_scales_multiply(case):
    plain, x, hint, cond = case
    one, two = _control(1), _control(2)

    first = Controlled(denoiser=plain, control=one, hint=hint, scale=0.5)
    nested = Controlled(denoiser=first, control=two, hint=hint.flip(0), scale=(1.0, 0.25))
    second = Controlled(denoiser=plain, control=two, hint=hint.flip(0), scale=(1.0, 0.25))
    other = Controlled(denoiser=second, control=one, hint=hint, scale=0.5)
    torch.testing.assert_close(_run(nested, x, cond), _run(other, x, cond), rtol=1e-5, atol=1e-5)
    a, b = first.residuals(x, 0.5, **cond), second.residuals(x, 0.5, **cond)
    bare = Controlled(denoiser=plain, control=two, hint=hint.flip(0)).residuals(x, 0.5, **cond)
    torch.testing.assert_close(b, [bare[0], 0.25 * bare[1]])
    tap = Tap()
    hooked = Hooked(denoiser=nested, subscribe=[(lambda s: s.kind == "block" and s.order == 0, tap)])
    hooked(x, 0.5, **cond)
    untouched = Tap()
    Hooked(denoiser=plain, subscribe=[(lambda s: s.kind == "block" and s.order == 0, untouched)])(x, 0.5, **cond)
    image = untouched.kept[:, :16] + a[0] + b[0]
    torch.testing.assert_close(tap.kept, torch.cat((image, untouched.kept[:, 16:]), dim=1))


class Tap(Subscriber):
    def after(self, h, site, now):
        self.kept = h.clone()
        return h


def test_guidance_steers_both_branches_and_the_hint_is_worked_on_once_a_run(case):
    plain, x, hint, cond = case
    control = _control()
    calls = []
    control.hint.register_forward_hook(lambda *_: calls.append(1))
    steered = Controlled(denoiser=plain, control=control, hint=hint)
    null = {key: torch.zeros_like(value) for key, value in cond.items()}
    guided = ClassifierFree(denoiser=steered, scale=3.0, null=null)
    nothing, given = steered(x, 0.5, **null), steered(x, 0.5, **cond)
    torch.testing.assert_close(guided(x, 0.5, **cond), torch.lerp(nothing, given, 3.0), rtol=1e-4, atol=1e-5)
    calls.clear()
    _run(guided, x, cond)
    assert len(calls) == 1
    row = Controlled(denoiser=plain, control=control, hint=hint[:1])
    both = Controlled(denoiser=plain, control=control, hint=hint[:1].expand(2, -1, -1, -1))
    torch.testing.assert_close(row(x, 0.5, **cond), both(x, 0.5, **cond))


def test_what_cannot_be_is_refused(case):
    plain, x, hint, cond = case
    control = _control()
    with pytest.raises(InputError, match="start and end are shares of a run"):
        Controlled(denoiser=plain, control=control, hint=hint, end=0.5)(x, 0.5, **cond)
    with pytest.raises(InputError, match="0 <= start <= end <= 1"):
        Controlled(denoiser=plain, control=control, hint=hint, start=0.7, end=0.5)
    with pytest.raises(InputError, match="gives 2 residuals: scale has 3"):
        Controlled(denoiser=plain, control=control, hint=hint, scale=(1.0, 2.0, 3.0))
    with pytest.raises(InputError, match="the hint has 3 rows, the batch 2"):
        Controlled(denoiser=plain, control=control, hint=hint.repeat(2, 1, 1, 1)[:3])(x, 0.5, **cond)
    guided = ClassifierFree(denoiser=plain, scale=2.0, null={"pooled": torch.zeros(6)})
    with pytest.raises(InputError, match="ClassifierFree calls no network itself"):
        Controlled(denoiser=guided, control=control, hint=hint)
    with pytest.raises(InputError, match="needs a hint"):
        control(x, torch.tensor([500.0]), **cond)
    with pytest.raises(InputError, match="neither normed nor dual"):
        SD3ControlNetConfig(context=0, normed=True)


def test_it_compiles_without_a_graph_break(case):
    _, x, hint, cond = case
    control = _control()
    compiled = torch.compile(control, backend="eager", fullgraph=True)
    t = torch.tensor([500.0])
    torch.testing.assert_close(compiled(x, t, hint=hint, **cond), control(x, t, hint=hint, **cond))
