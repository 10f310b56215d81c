"""A run computes once what its states do not decide: counted, and equal to the plain forward."""

from collections import Counter
from fnmatch import fnmatch
from importlib import import_module

import pytest
import torch
from torch import nn

from sfumato import grids, sample, solvers
from sfumato.control.controlled import Controlled
from sfumato.control.controlnet import trained_from
from sfumato.control.sd3_controlnet import copied
from sfumato.core import Flow, Preconditioned, Rectified, ahead, prepare
from sfumato.core.sampling import steps
from sfumato.guidance import ClassifierFree, Interval
from sfumato.nets.diffit import DiffiTConfig
from sfumato.nets.diffit_unet import DiffiTUNetConfig
from sfumato.nets.dit import AdaLN, CrossAttention, DiTConfig, InContext
from sfumato.nets.hunyuan_dit import HunyuanDiTConfig
from sfumato.nets.latent_unet import LatentUNetConfig
from sfumato.nets.lumina import LuminaConfig
from sfumato.nets.mmdit import MMDiTConfig
from sfumato.nets.pixart import PixArtConfig
from sfumato.nets.unet import UNetConfig
from sfumato.pipeline.lean import InParts

DIT = {"channels": 4, "size": 8, "width": 32, "layers": 2, "heads": 2, "num_classes": 5}
PIXART = {"size": 8, "out_channels": 4, "width": 36, "layers": 2, "heads": 2, "context": 12}
TEXT = {"context": (3, 12)}
Y = {"y": ()}
SIZES = {"sizes": (3,)}
HUNYUAN = {"context": (4, 12), "context_2": (6, 16), "context_mask": (4,), "context_2_mask": (6,)}
# (configuration, conditions, some of what a run asks once, its tables)
EVERY = {
    "DiT": (
        DiTConfig(**DIT),
        Y,
        ("blocks.1.modulation", "norm_out.modulation", "time.mlp.0", "label.table"),
        ("dit.sincos_2d",),
    ),
    "DiT, adaLN": (DiTConfig(**DIT, conditioning=AdaLN()), Y, ("blocks.0.modulation",), ("dit.sincos_2d",)),
    "DiT, in context": (
        DiTConfig(**DIT, conditioning=InContext()),
        Y,
        ("time.mlp.2", "label.table"),
        ("dit.sincos_2d",),
    ),
    "DiT, crossed": (
        DiTConfig(**DIT, conditioning=CrossAttention()),
        Y,
        ("blocks.1.cross.k", "blocks.1.cross.v"),
        ("dit.sincos_2d",),
    ),
    "MMDiT": (
        MMDiTConfig(
            channels=4, out_channels=4, layers=3, heads=2, head_width=16, context=12, pooled=10, positions=8, dual=(1,)
        ),
        TEXT | {"pooled": (10,)},
        ("blocks.2.modulation", "blocks.2.text_modulation", "modulation", "time.mlp.0", "vector.0", "text"),
        (),
    ),
    "PixArt": (
        PixArtConfig(**PIXART),
        TEXT | {"context_mask": (3,)},
        ("modulation", "time.mlp.0", "text.fc2", "blocks.0.cross.k", "blocks.0.cross.v"),
        ("pixart.sincos_2d",),
    ),
    "PixArt with sizes": (
        PixArtConfig(**PIXART, sizes=True),
        TEXT | SIZES,
        ("modulation", "resolution.mlp.0", "ratio.mlp.0"),
        ("pixart.sincos_2d",),
    ),
    "Hunyuan-DiT": (
        HunyuanDiTConfig(
            out_channels=4, width=32, layers=4, heads=2, hidden=40,
            context=12, tokens=4, context_2=16, tokens_2=6, pooled=8, base=4
        ),
        HUNYUAN | {"sizes": (6,)},
        ("blocks.3.modulation", "norm_out.modulation", "vector.0", "text.0", "pool.q", "blocks.3.cross.k"),
        ("hunyuan_dit.rotation_2d",),
    ),
    "Lumina": (
        LuminaConfig(width=32, layers=2, heads=4, kv_heads=2, context=12, multiple=8, base=3, watershed=0.4),
        TEXT | {"context_mask": (3,)},
        ("blocks.1.modulation", "modulation", "time.mlp.0", "vector.1", "blocks.1.cross.k"),
        ("lumina.frequencies",),
    ),
    "latent U-Net": (
        LatentUNetConfig(
            widths=(16, 32), transformers=(1, 0), heads=(2, 2), context=12, groups=4, vector=8, guidance_width=4
        ),
        TEXT | {"pooled": (8,), "guidance": ()},
        ("down.0.blocks.1.time", "middle.1.time", "up.1.blocks.2.time", "noise.mlp.0", "guidance", "vector.0"),
        (),
    ),
    "U-Net": (
        UNetConfig(
            in_channels=4, out_channels=4, channels=8, multipliers=(1, 2), head_width=8, groups=4, num_classes=5
        ),
        Y,
        ("time", "noise.mlp.0", "label.table"),
        (),
    ),
    "DiffiT": (
        DiffiTConfig(size=8, out_channels=4, width=32, layers=2, heads=2, num_classes=5),
        Y,
        ("blocks.1.attn.time", "time.mlp.0", "label.table"),
        ("diffit.differences",),
    ),
    "DiffiT for pictures": (
        DiffiTUNetConfig(
            in_channels=4, out_channels=4, channels=8, multipliers=(1, 1), layers=1, windows=(4, 4), head_width=4,
            groups=4, num_classes=5,
        ),
        Y,
        ("middle.block.attn.time", "up.1.blocks.1.block.attn.time", "noise.mlp.0"),
        ("diffit_unet.differences",),
    ),
}  # fmt: skip

TWICE = {"lumina.frequencies": 2}  # before the watershed and after it


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config):
    """Return a network whose every weight counts."""
    net = config.build().eval()
    for i, p in enumerate(net.parameters()):
        p.data += 0.1 * drawn(*p.shape, seed=i)
    return net.requires_grad_(False)


def told(shapes, rows, seed):
    """Return conditions of `rows` rows, no two alike."""
    made = {}
    for i, (key, shape) in enumerate(shapes.items()):
        if key == "y":
            made[key] = torch.arange(rows) % 5
        elif key.endswith("mask"):
            made[key] = torch.ones(rows, *shape)
            made[key][:, -1] = 0.0
        else:
            made[key] = drawn(rows, *shape, seed=100 * seed + i)
    return made


def run(net, shapes, n=5, prepared=True, rows=2, solver=None):
    """Return the states of a guided run, two rows that differ."""
    denoiser = ClassifierFree(
        denoiser=Preconditioned(net, Rectified(), Flow()),
        scale=2.0,
        null=None if "y" in shapes else told(shapes, rows, 2),
    )
    grid = grids.uniform(denoiser.schedule, n)
    x, cond = drawn(rows, 4, 8, 8), told(shapes, rows, 1)
    if prepared:
        return sample(denoiser, x=x, solver=solver or solvers.Euler(), grid=grid, seeds=range(rows), cond=cond)
    with torch.no_grad():
        for k in steps(denoiser.schedule, grid):
            clean = denoiser(x, k.t, **cond)
            x = (
                clean
                if k.sigma_s == 0
                else solvers.Euler().step(lambda *_, c=clean, **__: c, x, k, None, None, cond)[0]
            )
    return x


@pytest.mark.parametrize("name", EVERY)
def test_a_run_is_the_plain_forward_and_makes_once_what_states_do_not_decide(name, monkeypatch):
    config, shapes, once, tables = EVERY[name]
    net = built(config)
    expected = run(net, shapes, prepared=False)
    calls = Counter()
    for path, module in net.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            module.register_forward_hook(lambda *_, path=path: calls.update([path]))
    for table in tables:
        module = import_module(f"sfumato.nets.{table.split('.')[0]}")
        function = table.split(".")[1]
        plain = getattr(module, function)
        monkeypatch.setattr(
            module,
            function,
            lambda *args, plain=plain, table=table, **kw: (calls.update([table]), plain(*args, **kw))[1],
        )
    got = run(net, shapes, n=5)
    assert float((got - expected).norm() / expected.norm()) < 1e-6
    assert set(once) | set(tables) <= set(calls)
    for path, count in calls.items():
        alone = path in tables or any(fnmatch(path, pattern) for pattern in net.once)
        assert count == (TWICE.get(path, 1) if alone else 5), path
    assert all(any(fnmatch(path, pattern) for pattern in net.once) for path in once)


def counted(net, paths):
    calls = Counter()
    for path in paths:
        net.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.update([path]))
    return calls


def dit():
    return built(EVERY["DiT"][0])


@torch.no_grad()
def test_many_rows_are_steered_some_steps_at_a_time_and_too_many_one_by_one(monkeypatch):
    monkeypatch.setattr(ahead, "ROWS", 16)
    net = dit()
    plain, times = Preconditioned(net, Rectified(), Flow()), [0.9, 0.7, 0.5, 0.3, 0.1]
    for rows, expected in ((4, [16, 16]), (9, 5 * [9])):  # four steps at once, then the last four; one by one
        ready, x, y = prepare(plain, times), drawn(rows, 4, 8, 8), torch.arange(rows) % 5
        seen = []
        handle = net.blocks[0].modulation.register_forward_hook(
            lambda _, given, out, seen=seen: seen.append(given[0].shape[:-1].numel())
        )
        got = [ready(x, t, y=y) for t in times]
        handle.remove()
        assert seen == expected
        for t, x0 in zip(times, got, strict=True):
            torch.testing.assert_close(x0, plain(x, t, y=y), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_is_asked_about_once_is_not_made_for_all_steps():
    net, grid = dit(), [0.9, 0.6, 0.3]
    ready, x = prepare(Preconditioned(net, Rectified(), Flow()), grid), drawn(2, 4, 8, 8)
    rows = []
    net.blocks[0].modulation.register_forward_hook(lambda _, given, out: rows.append(given[0].shape[:-1].numel()))
    y = torch.tensor([1, 2])
    for t in grid:
        torch.testing.assert_close(ready(x, t, y=y), ready.denoiser(x, t, y=y))
    assert rows == [6, 2, 2, 2]  # ours once, then those of the plain forward
    rows.clear()
    for t in grid:  # other conditions each time
        z = y.clone()
        torch.testing.assert_close(ready(x, t, y=z), ready.denoiser(x, t, y=z))
    assert rows == 6 * [2]
    rows.clear()
    for t in grid:  # other ones, kept
        torch.testing.assert_close(ready(x, t, y=y), ready.denoiser(x, t, y=y))
    assert rows == [2, 2, 6, 2, 2]
    y[0] = 4  # and changed in place
    torch.testing.assert_close(ready(x, 0.3, y=y), ready.denoiser(x, 0.3, y=y))


def test_between_the_times_of_a_grid_and_where_autograd_records():
    net = built(EVERY["PixArt"][0])
    plain, cond = Preconditioned(net, Rectified(), Flow()), told(EVERY["PixArt"][1], 2, 1)
    calls, ready, x = counted(net, ["text.fc2"]), prepare(plain, [0.9, 0.3]), drawn(2, 4, 8, 8)
    with torch.no_grad():
        expected = plain(x, 0.4, **cond)
        calls.clear()
        for t in (0.9, 0.4, 0.5, 0.3):
            got = ready(x, t, **cond)
            if t == 0.4:
                torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
        assert calls["text.fc2"] == 1  # once a run, at whatever times
    u, v = x.clone().requires_grad_(), x.clone().requires_grad_()
    (mine,) = torch.autograd.grad(ready(u, 0.9, **cond).square().sum(), u)
    (theirs,) = torch.autograd.grad(plain(v, 0.9, **cond).square().sum(), v)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


OWN = [solvers.Heun(), solvers.DPMpp2S(), solvers.DPMAdaptive(rtol=0.2)]


@pytest.mark.parametrize("solver", OWN, ids=lambda s: type(s).__name__)
def test_solvers_with_times_of_their_own_agree_with_the_plain_network(solver, monkeypatch):
    net = dit().double()  # so that steps that a solver chooses are the same
    got = run(net, Y, solver=solver)
    monkeypatch.setattr(Preconditioned, "prepare", lambda self, times: self)
    torch.testing.assert_close(got, run(net, Y, solver=solver), rtol=1e-5, atol=1e-5)


def test_an_interval_of_guidance_and_other_sizes():
    net, shapes = built(EVERY["PixArt"][0]), EVERY["PixArt"][1]
    inner = Preconditioned(net, Rectified(), Flow())
    denoiser = Interval(denoiser=ClassifierFree(denoiser=inner, scale=2.0, null=told(shapes, 2, 2)), low=0.3, high=2.0)
    cond, ready = told(shapes, 2, 1), prepare(denoiser, [0.9, 0.7, 0.5, 0.2])
    with torch.no_grad():
        for size in ((8, 8), (4, 12), (8, 8)):
            for t in (0.9, 0.7, 0.5, 0.2):
                x = drawn(2, 4, *size)
                torch.testing.assert_close(ready(x, t, **cond), denoiser(x, t, **cond), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["latent U-Net", "MMDiT"])
def test_a_control_network_is_told_once_too(name):
    config, shapes, *_ = EVERY[name]
    host = built(config)
    if name == "MMDiT":
        control, hint = copied(host, 2), drawn(2, 4, 8, 8)
        once = ["time.mlp.0", "vector.0", "text", "hint.matrix", "blocks.1.modulation", "blocks.1.text_modulation"]
    else:
        control, hint = trained_from(host), drawn(2, 3, 64, 64).sigmoid()
        once = ["unet.noise.mlp.0", "unet.vector.0", "unet.down.0.blocks.1.time", "hint.conv_in"]
    for i, p in enumerate(control.parameters()):
        p.data += 0.05 * drawn(*p.shape, seed=i)
    control.eval().requires_grad_(False)
    inner = Preconditioned(host, Rectified(), Flow())
    denoiser = Controlled(denoiser=inner, control=control, hint=hint)
    calls, times, cond = counted(control, once), [0.9, 0.6, 0.3], told(shapes, 2, 1)
    with torch.no_grad():
        ready, x = prepare(denoiser, times), drawn(2, 4, 8, 8)
        for t in times:
            got = ready(x, t, **cond)
        assert dict(calls) == dict.fromkeys(once, 1)
        torch.testing.assert_close(got, denoiser(x, 0.3, **cond), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(got, inner(x, 0.3, **cond), atol=1e-3)
    assert set(once) <= {p for p, _ in control.named_modules() if any(fnmatch(p, one) for one in control.once)}


@torch.no_grad()
def test_a_batch_in_parts_is_told_once_a_part():
    net, shapes = built(EVERY["MMDiT"][0]), EVERY["MMDiT"][1]
    plain, cond, times = Preconditioned(net, Rectified(), Flow()), told(shapes, 3, 1), [0.9, 0.6, 0.3]
    calls, x = counted(net, ["text", "vector.0", "blocks.0.modulation", "time.mlp.0"]), drawn(3, 4, 8, 8)
    ready = prepare(InParts(denoiser=plain, rows=2), times)
    got = [ready(x, t, **cond) for t in times]
    assert set(calls.values()) == {2}
    for t, x0 in zip(times, got, strict=True):
        torch.testing.assert_close(x0, plain(x, t, **cond), rtol=1e-5, atol=1e-5)
    each = torch.tensor(times, dtype=torch.float64)
    torch.testing.assert_close(ready(x, each, **cond), plain(x, each, **cond), rtol=1e-5, atol=1e-5)
