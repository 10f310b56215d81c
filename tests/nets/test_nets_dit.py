"""The DiT against diffusers' on the same weights, the paper's counts, and the formulas of its parts."""

import math
from dataclasses import replace

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

import sfumato as sf
from sfumato.core import InputError, from_config, to_config
from sfumato.nets.blocks.embedding import Sinusoidal, sincos_2d
from sfumato.nets.blocks.kernels import PackedLinear, gated_add, inference, linear_gelu, packed
from sfumato.nets.blocks.transformer import patchify, unpatchify
from sfumato.nets.dit import AdaLN, AdaLNZero, CrossAttention, DiT, DiTConfig, InContext, dit_b, dit_l, dit_s, dit_xl
from sfumato.pipeline.folder import empty

TINY = DiTConfig(size=8, channels=3, out_channels=6, patch=2, width=32, layers=3, heads=4, num_classes=10)


def build(config=TINY, seed=0):
    """A network whose every weight counts: the zeros of the initialisation would hide mistakes."""
    net = config.build()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * p.shape[-1] ** -0.5)
    return net


def inputs(config=TINY, rows=5, dtype=torch.float32):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(rows, config.channels, config.size, config.size, generator=generator).to(dtype)
    return x, torch.linspace(3, 997, rows), torch.tensor([0, 4, 9, 10, 2])[:rows]


def peer(net):
    """diffusers' DiT with the weights of `net`: its embedders are copied into every block."""
    diffusers = pytest.importorskip("diffusers")
    k = net.config
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=k.heads,
        attention_head_dim=k.width // k.heads,
        in_channels=k.channels,
        out_channels=k.out_channels,
        num_layers=k.layers,
        sample_size=k.size,
        patch_size=k.patch,
        num_embeds_ada_norm=k.num_classes,
        norm_eps=1e-6,
    ).eval()
    modules = {
        "proj_out_1": net.norm_out.modulation,
        "proj_out_2": net.out,
    }
    weights = {
        "pos_embed.proj.weight": net.patches.weight.view(k.width, k.channels, k.patch, k.patch),
        "pos_embed.proj.bias": net.patches.bias,
    }
    for i, block in enumerate(net.blocks):
        name = f"transformer_blocks.{i}."
        modules |= {
            name + "norm1.emb.timestep_embedder.linear_1": net.time.mlp[0],
            name + "norm1.emb.timestep_embedder.linear_2": net.time.mlp[2],
            name + "norm1.linear": block.modulation,
            name + "attn1.to_out.0": block.attention.proj,
            name + "ff.net.0.proj": block.mlp.fc1,
            name + "ff.net.2": block.mlp.fc2,
        }
        weights[name + "norm1.emb.class_embedder.embedding_table.weight"] = net.label.table.weight
        for part, w, b in zip("qkv", block.attention.qkv.weight.chunk(3), block.attention.qkv.bias.chunk(3)):
            weights |= {f"{name}attn1.to_{part}.weight": w, f"{name}attn1.to_{part}.bias": b}
    for name, module in modules.items():
        weights |= {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
    theirs.load_state_dict(weights, strict=True)
    return theirs


@pytest.mark.parametrize("grad", [True, False], ids=["plain", "inference"])
def test_same_weights_same_output_as_diffusers(grad):
    # diffusers' own class has frequencies with shift 1, where the paper's code has 0
    net = build(replace(TINY, time=Sinusoidal(dim=256, shift=1)))
    theirs = peer(net)
    x, _, y = inputs()
    t = torch.tensor([3, 250, 500, 751, 999])
    with torch.set_grad_enabled(grad):
        expected = theirs(x, timestep=t, class_labels=y).sample
        assert (net(x, t.float(), y=y) - expected).abs().max() < 1e-5 * expected.abs().max()
        one = theirs(x, timestep=t[2:3].expand(5), class_labels=y).sample
        assert (net(x, t[2:3].float(), y=y) - one).abs().max() < 1e-5 * one.abs().max()


def written_out(net, x, c, y):
    """The network as the paper has it, head by head, in the dtype of the weights."""
    k = net.config
    half = k.time.dim // 2
    phase = c.double()[:, None] * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    gamma = torch.cat([phase.cos(), phase.sin()], 1)
    first, second = net.time.mlp[0], net.time.mlp[2]
    u = gamma @ first.weight.T + first.bias
    cond = (u * u.sigmoid()) @ second.weight.T + second.bias + net.label.table.weight[y]
    cond = cond * cond.sigmoid()

    def norm(h, shift, scale):
        mean, var = h.mean(-1, keepdim=True), h.var(-1, unbiased=False, keepdim=True)
        return (h - mean) / (var + 1e-6).sqrt() * (1 + scale[:, None]) + shift[:, None]

    def affine(layer, h):
        return h @ layer.weight.T + layer.bias

    n = k.size // k.patch
    weight = net.patches.weight.view(k.width, k.channels, k.patch, k.patch)
    h = F.conv2d(x, weight, net.patches.bias, stride=k.patch).flatten(2).transpose(1, 2) + sincos_2d(k.width, n, n)
    for block in net.blocks:
        b1, s1, g1, b2, s2, g2 = affine(block.modulation, cond).chunk(6, 1)
        q, key, v = affine(block.attention.qkv, norm(h, b1, s1)).chunk(3, -1)
        heads = []
        for i in range(k.heads):
            part = slice(i * k.width // k.heads, (i + 1) * k.width // k.heads)
            scores = q[..., part] @ key[..., part].transpose(1, 2) / math.sqrt(k.width / k.heads)
            heads.append(scores.softmax(-1) @ v[..., part])
        h = h + g1[:, None] * affine(block.attention.proj, torch.cat(heads, -1))
        u = affine(block.mlp.fc1, norm(h, b2, s2))
        u = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        h = h + g2[:, None] * affine(block.mlp.fc2, u)
    shift, scale = affine(net.norm_out.modulation, cond).chunk(2, 1)
    tokens = affine(net.out, norm(h, shift, scale))
    image = torch.zeros(len(x), k.out_channels, k.size, k.size, dtype=x.dtype)
    for i in range(n):
        for j in range(n):
            patch = tokens[:, i * n + j].reshape(-1, k.patch, k.patch, k.out_channels).permute(0, 3, 1, 2)
            image[:, :, i * k.patch : (i + 1) * k.patch, j * k.patch : (j + 1) * k.patch] = patch
    return image


def test_is_the_paper_written_out_and_so_are_its_gradients():
    net = build().double()
    x, c, y = inputs(dtype=torch.float64)
    x.requires_grad_()
    c = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])  # small, so that the float32 sinusoids are exact enough
    expected = written_out(net, x, c, y)
    assert (net(x, c, y=y) - expected).abs().max() < 1e-5
    weights = [x, *net.parameters()]
    ours = torch.autograd.grad(net(x, c, y=y).square().sum(), weights)
    theirs = torch.autograd.grad(expected.square().sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@pytest.mark.parametrize(("make", "millions"), [(dit_s, 32.9), (dit_b, 130.3), (dit_l, 457.8), (dit_xl, 674.8)])
def test_published_parameter_counts(make, millions):
    with torch.device("meta"):
        net = DiT(replace(make(), out_channels=8, num_classes=1000))
    assert abs(sum(p.numel() for p in net.parameters()) / 1e6 - millions) < 0.05
    assert make(8).patch == 8


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    net = replace(TINY, width=128, heads=2).build()
    x, c, y = inputs()
    assert torch.equal(net(x, c, y=y), torch.zeros(5, 6, 8, 8))  # the last matrix is zero
    tokens = torch.randn(2, 16, 128)
    for block in net.blocks:  # each block is the identity
        assert torch.equal(block(tokens, block.steer(torch.randn(2, 128))), tokens)

    def std(w):
        return float(w.detach().std())

    def xavier(w):
        return math.sqrt(2 / (w.shape[0] + w.shape[1]))  # sd of U(-a, a), a = sqrt(6 / (in + out))

    block = net.blocks[0]
    for layer in (block.attention.qkv, block.attention.proj, block.mlp.fc1, block.mlp.fc2, net.patches):
        assert std(layer.weight) == pytest.approx(xavier(layer.weight), rel=0.05)
        assert float(layer.weight.detach().abs().max()) <= xavier(layer.weight) * math.sqrt(3) * (1 + 1e-6)
    for weight in (net.time.mlp[0].weight, net.time.mlp[2].weight, net.label.table.weight):
        assert std(weight) == pytest.approx(0.02, rel=0.06)
    biases = [p for name, p in net.named_parameters() if name.endswith("bias")]
    assert len(biases) == 3 * 5 + 5
    assert all(not p.any() for p in biases)


def test_patches_and_back():
    x = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    tokens = patchify(x, 2)
    assert torch.equal(tokens[1, 4], x[1, :, 2:4, 2:4].flatten())  # row 1, column 1 of 2 x 3 patches
    # unpatchify has channels last: the order of the released final layer
    swapped = tokens.unflatten(-1, (3, 2, 2)).permute(0, 1, 3, 4, 2).flatten(2)
    assert torch.equal(unpatchify(swapped, 2, 4, 6), x)


def test_gated_add_reuses_its_first_argument_without_gradients_only():
    x, g, y = torch.randn(2, 3), torch.randn(2, 1), torch.randn(2, 3)
    expected = x + g * y
    out = gated_add(x, g, y)
    assert torch.allclose(out, expected)
    assert out.data_ptr() != x.data_ptr()
    with torch.no_grad():
        again = gated_add(x, g, y)
    assert torch.allclose(again, expected)
    assert again.data_ptr() == x.data_ptr()


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_linear_gelu_is_the_tanh_form(dtype):
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(s, generator=generator).to(dtype) for s in ((6, 40), (24, 40), (24,)))
    u = F.linear(x.double(), w.double(), b.double())
    exact = 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
    assert (exact - F.gelu(u)).abs().max() > 1e-4  # the erf form would be seen in single precision
    layer = torch.nn.Linear(40, 24, dtype=dtype)
    layer.load_state_dict({"weight": w, "bias": b})
    bar = {torch.float32: 5e-6, torch.bfloat16: 0.05, torch.float64: 1e-12}[dtype]
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            out = linear_gelu(layer, x)
            assert out.dtype == dtype
            assert (out.double() - exact).abs().max() < bar


def test_inference_kernels_stand_aside_for_every_kind_of_derivative():
    net = build()
    x, c, y = inputs(rows=2)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))

    def run(v):
        return net(v, c, y=y)

    step = 1e-3
    with torch.no_grad():
        assert inference()
        slope = (run(x + step * direction) - run(x - step * direction)) / (2 * step)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            tangent = torch.func.jvp(run, (x,), (direction,))[1]
            with forward_ad.dual_level():
                dual = forward_ad.unpack_dual(run(forward_ad.make_dual(x, direction))).tangent
        mapped = torch.func.vmap(lambda label: net(x[:1], c[:1], y=label[None])[0])(y)
        rows = torch.cat([net(x[:1], c[:1], y=y[i : i + 1]) for i in range(2)])
    assert (tangent - slope).abs().max() < 2e-2 * slope.abs().max()
    assert torch.allclose(dual, tangent, rtol=1e-4, atol=1e-4)
    assert (mapped - rows).abs().max() < 1e-5 * rows.abs().max()


@pytest.mark.parametrize("grad", [True, False], ids=["plain", "inference"])
def test_a_row_does_not_depend_on_its_neighbours(grad):
    net = build().double()
    x, c, y = inputs(dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        whole = net(x, c, y=y)
        for i in range(5):
            assert (net(x[i : i + 1], c[i : i + 1], y=y[i : i + 1]) - whole[i : i + 1]).abs().max() < 1e-12
        shared = net.trunk(x, net.embed(c[:1]), **net.condition(y=y))
        assert (shared - net(x, c[:1].expand(5), y=y)).abs().max() < 1e-12


def test_input_and_weights_are_left_alone():
    net = build()
    x, c, y = inputs()
    emb = net.embed(c).detach()
    copies = [v.clone() for v in (x, emb, *net.state_dict().values())]
    with torch.no_grad():
        first = net.trunk(x, emb, **net.condition(y=y))
        second = net.trunk(x, emb, **net.condition(y=y))
    assert torch.equal(first, second)
    for before, after in zip(copies, (x, emb, *net.state_dict().values()), strict=True):
        assert torch.equal(before, after)


@pytest.mark.usefixtures("fused")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_give_the_same_output(dtype):
    net = build().to(dtype)
    x, c, y = inputs()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    fast = packed(net)
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert fast is net  # this processor has no such layers
        return
    assert sum(isinstance(m, PackedLinear) for m in fast.modules()) == 3 * 4 + 2  # what a run asks once is not
    assert fast.label is not net.label
    assert fast.label.table.weight is net.label.table.weight  # shared, not copied
    with torch.no_grad():
        expected = net(x.to(dtype), c, y=y)
        bar = {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        assert (fast(x.to(dtype), c, y=y) - expected).norm() < bar * expected.norm()
    with pytest.raises(RuntimeError, match="no derivatives"):
        fast(x.to(dtype), c, y=y)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])
    assert not any(isinstance(m, PackedLinear) for m in net.modules())


def test_packing_leaves_other_networks_alone():
    net = TINY.build().double()
    assert packed(net) is net


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_a_break(backend):
    net = build()
    x, c, y = inputs()
    compiled = torch.compile(net, fullgraph=True, backend=backend)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.allclose(compiled(x, c, y=y), net(x, c, y=y), atol=1e-4)


def test_bfloat16_is_no_further_off_than_diffusers():
    net = build(replace(TINY, width=64, time=Sinusoidal(dim=256, shift=1)))
    theirs = peer(net)
    x, c, y = inputs()
    with torch.no_grad():
        exact = net(x, c, y=y)
        half = net.to(torch.bfloat16)(x.bfloat16(), c, y=y)
        other = theirs.to(torch.bfloat16)(x.bfloat16(), timestep=c, class_labels=y).sample
    assert (half - exact).norm() < 1.1 * (other - exact).norm()


def test_null_class():
    net = build()
    x, c, _ = inputs(rows=2)
    assert net.cond == {"y": 10}
    assert torch.equal(net(x, c), net(x, c, y=torch.tensor([10, 10])))
    assert not torch.equal(net(x, c), net(x, c, y=torch.tensor([0, 0])))
    assert replace(TINY, num_classes=None).build().cond == {}


def test_guided_run():
    """Guidance, the null row and hoisted embeddings together: the run equals the formula step by step."""
    net = build(replace(TINY, out_channels=None)).double()
    denoiser = sf.Preconditioned(net, sf.VPCosine(), sf.Eps())
    y = torch.tensor([1, 2])
    grid = sf.grids.uniform(denoiser.schedule, 3)
    guided = sf.guidance.ClassifierFree(denoiser=denoiser, scale=2.5)
    shape = (2, 3, 8, 8)
    settings = {"grid": grid, "seeds": [5, 6], "dtype": torch.float64}
    got = sf.sample(guided, shape, solver=sf.solvers.DDIM(), cond={"y": y}, **settings)
    x = sf.core.Noise([5, 6]).normal(shape, "start", dtype=torch.float64) * denoiser.schedule(1.0)[1]
    with torch.no_grad():
        for t, s in zip(grid.tolist()[:-1], grid.tolist()[1:], strict=True):
            c = torch.tensor([1000 * t])
            null, cond = net(x, c, y=torch.tensor([10, 10])), net(x, c, y=y)
            eps = null + 2.5 * (cond - null)
            (a, b), (a_s, b_s) = denoiser.schedule(t), denoiser.schedule(s)
            x = a_s * (x - b * eps) / a + b_s * eps
    assert (got - x).abs().max() < 1e-6 * x.abs().max()


@pytest.mark.parametrize("config", [TINY, DiTConfig(), dit_xl(4), replace(TINY, time=Sinusoidal(dim=64, scale=1000.0))])
def test_round_trip(config):
    assert from_config(to_config(config)) == config


@pytest.mark.parametrize(
    "make",
    [
        lambda: DiTConfig(size=9),
        lambda: DiTConfig(width=30),
        lambda: DiTConfig(heads=5),
        lambda: DiTConfig(layers=0),
        lambda: TINY.build()(torch.zeros(1, 3, 8, 10), torch.zeros(1)),
        lambda: TINY.build()(torch.zeros(1, 4, 8, 8), torch.zeros(1)),
        lambda: replace(TINY, num_classes=None).build()(torch.zeros(1, 3, 8, 8), torch.zeros(1), y=torch.tensor([0])),
    ],
)
def test_refused(make):
    with pytest.raises(InputError):
        make()


PUBLISHED = {AdaLNZero: 675, AdaLN: 600, CrossAttention: 598, InContext: 449}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_four_conditionings_have_the_published_parameters(kind):
    # XL/2: arXiv 2212.09748, table 4, in millions
    config = replace(dit_xl(), out_channels=8, num_classes=1000, conditioning=kind())
    count = sum(p.numel() for p in empty(config, torch.float32).parameters())
    assert round(count / 1e6) == PUBLISHED[kind]
    assert from_config(to_config(config)) == config


def test_exact_parameter_counts():
    d, n = 1152, 28
    block = 12 * d * d + 9 * d  # qkv, proj, fc1, fc2 and their biases
    shared = 16 * d + d + 257 * d + d * d + d + 1001 * d + 32 * d + 32
    expected = {
        AdaLNZero: n * (block + 6 * d * d + 6 * d) + shared + 2 * d * d + 2 * d,
        AdaLN: n * (block + 4 * d * d + 4 * d) + shared + 2 * d * d + 2 * d,
        CrossAttention: n * (block + 4 * d * d + 4 * d + 6 * d) + shared + 2 * d,
        InContext: n * (block + 4 * d) + shared + 2 * d,
    }
    for kind, count in expected.items():
        config = replace(dit_xl(), out_channels=8, num_classes=1000, conditioning=kind())
        assert sum(p.numel() for p in empty(config, torch.float32).parameters()) == count


def test_ungated_norms_are_gated_ones_whose_gates_are_one():
    plain, zero = build(replace(TINY, conditioning=AdaLN())), build()
    state = plain.state_dict()
    for i in range(TINY.layers):
        for part in ("weight", "bias"):
            name = f"blocks.{i}.modulation.{part}"
            four = state[name].chunk(4)
            one = torch.full_like(four[0], float(part == "bias"))
            state[name] = torch.cat([*four[:2], one, *four[2:], one])
    zero.load_state_dict(state)
    x, c, y = inputs()
    assert (zero(x, c, y=y) - plain(x, c, y=y)).abs().max() < 1e-5


def tokens_written_out(net, x, c, y, *, cross):
    """In-context conditioning and cross-attention by PyTorch's own attention layer."""
    k = net.config
    side = k.size // k.patch
    extra = torch.stack([net.time(c), net.label.table(y)], 1)
    h = net.patches(patchify(x, k.patch)) + sincos_2d(k.width, side, side)
    h = h if cross else torch.cat([h, extra], 1)

    def norm(layer, h):
        return F.layer_norm(h, (k.width,), layer.weight, layer.bias, 1e-6)

    def attention(weights, biases, out, q, source):
        layer = torch.nn.MultiheadAttention(k.width, k.heads, batch_first=True)
        layer.load_state_dict(
            {
                "in_proj_weight": weights,
                "in_proj_bias": biases,
                "out_proj.weight": out.weight,
                "out_proj.bias": out.bias,
            }
        )
        return layer(q, source, source, need_weights=False)[0]

    for block in net.blocks:
        u = norm(block.norm_1, h)
        h = h + attention(block.attention.qkv.weight, block.attention.qkv.bias, block.attention.proj, u, u)
        if cross:
            parts = (block.cross.q, block.cross.k, block.cross.v)
            weights, biases = torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])
            h = h + attention(weights, biases, block.cross.out, norm(block.norm_cross, h), extra)
        u = F.linear(norm(block.norm_2, h), block.mlp.fc1.weight, block.mlp.fc1.bias)
        h = h + F.linear(F.gelu(u, approximate="tanh"), block.mlp.fc2.weight, block.mlp.fc2.bias)
    h = h[:, : side * side]
    return unpatchify(net.out(norm(net.norm_out.norm, h)), k.patch, k.size, k.size)


@pytest.mark.parametrize("kind", [InContext, CrossAttention])
@torch.no_grad()
def test_tokens_of_time_and_class_are_the_paper_written_out(kind):
    net = build(replace(TINY, conditioning=kind()))
    x, c, y = inputs()
    expected = tokens_written_out(net, x, c, y, cross=kind is CrossAttention)
    assert (net(x, c, y=y) - expected).abs().max() < 1e-5 * expected.abs().max()
    one = net(x, c[:1], y=y)  # one label for all rows
    assert (one - net(x, c[:1].expand(5), y=y)).abs().max() < 1e-5 * one.abs().max()


@pytest.mark.parametrize("kind", [AdaLN, InContext, CrossAttention])
def test_every_conditioning_compiles_and_every_weight_shows(kind):
    net = build(replace(TINY, layers=1, conditioning=kind()))
    x, c, y = inputs()
    out = net(x, c, y=y)
    assert torch.allclose(torch.compile(net, fullgraph=True, backend="eager")(x, c, y=y), out, atol=1e-4)
    out.square().sum().backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-5]
    assert [name for name in idle if not name.endswith("cross.k.bias")] == []  # it shifts all logits of a query alike
    assert replace(TINY, num_classes=None, conditioning=kind()).build()(x, c).shape == (len(x), 6, 8, 8)
