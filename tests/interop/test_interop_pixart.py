"""PixArt against diffusers' class on the same weights, and in its authors' own layout."""

from dataclasses import replace

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError
from sfumato.interop.diffusers.pixart import LAYOUT
from sfumato.interop.links import read, write
from sfumato.interop.single import pixart as single
from sfumato.nets.pixart import KVCompression, PixArtConfig

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "num_layers": 2,
    "sample_size": 8,
    "cross_attention_dim": 48,
    "caption_channels": 20,
}
VARIANTS = {
    "512": {},
    "1024": {"use_additional_conditions": True, "interpolation_scale": 2},
    "sigma-256": {"interpolation_scale": 0.5, "out_channels": None},
    "128": {"sample_size": 128, "num_layers": 1},
    "eps": {"norm_eps": 1e-2, "patch_size": 4},
}


def _model(name):
    return scrambled(diffusers.PixArtTransformer2DModel(**(TINY | VARIANTS[name])))


def _inputs(config, seed=0):
    g = torch.Generator().manual_seed(seed)
    cond = {"context": torch.randn(2, 7, 20, generator=g), "context_mask": torch.ones(2, 7)}
    cond["context_mask"][0, 4:] = 0
    theirs = {"encoder_hidden_states": cond["context"], "encoder_attention_mask": cond["context_mask"]}
    theirs["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    if config.sizes:
        cond["sizes"] = torch.tensor([[512.0, 768.0, 512 / 768], [1024.0, 640.0, 1.6]])
        theirs["added_cond_kwargs"] = {"resolution": cond["sizes"][:, :2], "aspect_ratio": cond["sizes"][:, 2:]}
    return torch.randn(2, 4, 8, 12, generator=g), torch.tensor([3.0, 700.0]), cond, theirs


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_output_as_diffusers(name):
    theirs = _model(name)
    net = ours(LAYOUT, theirs)
    x, t, cond, more = _inputs(net.config)
    expected = theirs(x, timestep=t, **more).sample
    assert distance(net(x, t, **cond), expected) < 1e-5
    assert torch.equal(net.trunk(x, net.embed(t), **net.condition(**cond)), net(x, t, **cond))
    one = net.trunk(x, net.embed(t[:1]), **net.condition(**cond))
    assert distance(one, net(x, t[:1].expand(2), **cond)) < 1e-5
    more["encoder_hidden_states"] = cond["context"].bfloat16()
    half = halved(theirs)(x.bfloat16(), timestep=t, **more).sample
    assert distance(halved(net)(x.bfloat16(), t, **cond).float(), expected) < max(1e-2, 1.5 * distance(half, expected))


@torch.no_grad()
def test_the_older_class_is_the_same_network():
    theirs = scrambled(
        diffusers.Transformer2DModel(
            **TINY,
            in_channels=4,
            out_channels=8,
            patch_size=2,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
            attention_bias=True,
            activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000,
        )
    )
    assert "Transformer2DModel" in LAYOUT.aliases
    net = LAYOUT.config(dict(theirs.config)).build().eval()
    tensors, missing, unused = read(LAYOUT.links(net), theirs.state_dict())
    assert (missing, unused) == ([], [])
    net.load_state_dict(tensors, assign=True)
    x, t, cond, more = _inputs(net.config)
    assert distance(net(x, t, **cond), theirs(x, timestep=t, **more).sample) < 1e-5


def test_every_weight_shows():
    net = ours(LAYOUT, _model("1024"))
    x, t, cond, _ = _inputs(net.config)
    assert idle(net, lambda n: n(x, t, **cond)) == []


@pytest.mark.parametrize(
    "change",
    [
        {"norm_type": "ada_norm_zero"},
        {"caption_channels": None},
        {"attention_type": "gated"},
        {"cross_attention_dim": 9},
        {"num_vector_embeds": 3},
    ],
)
def test_a_setting_that_is_not_known_is_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        LAYOUT.config(TINY | change)


@pytest.mark.parametrize("change", [{"compression": KVCompression(layers=(1,))}, {"null_tokens": 3}])
def test_what_their_class_cannot_be_is_not_written(change):
    with pytest.raises(InputError, match=next(iter(change))):
        LAYOUT.write(replace(LAYOUT.config(TINY), **change))


def _original(k):
    """The names and shapes of the authors' code, written out from its modules."""
    d, p, third = k.width, k.patch, k.width // 3
    pairs = {
        "x_embedder.proj": (d, k.channels, p, p),
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "t_block.1": (6 * d, d),
        "y_embedder.y_proj.fc1": (d, k.context),
        "y_embedder.y_proj.fc2": (d, d),
        "final_layer.linear": (p * p * k.out_channels, d),
    }
    for name in ("csize_embedder", "ar_embedder") if k.sizes else ():
        pairs |= {f"{name}.mlp.0": (third, 256), f"{name}.mlp.2": (third, third)}
    tables = {"final_layer.scale_shift_table": (2, d), "y_embedder.y_embedding": (k.null_tokens, k.context)}
    for i in range(k.layers):
        pairs |= {
            f"blocks.{i}.attn.qkv": (3 * d, d),
            f"blocks.{i}.attn.proj": (d, d),
            f"blocks.{i}.cross_attn.q_linear": (d, d),
            f"blocks.{i}.cross_attn.kv_linear": (2 * d, d),
            f"blocks.{i}.cross_attn.proj": (d, d),
            f"blocks.{i}.mlp.fc1": (4 * d, d),
            f"blocks.{i}.mlp.fc2": (d, 4 * d),
        }
        if k.compression and i in k.compression.layers:
            pairs |= {f"blocks.{i}.attn.sr": (d, 1, 2, 2), f"blocks.{i}.attn.norm": (d,)}
        tables[f"blocks.{i}.scale_shift_table"] = (6, d)
    return {f"{n}.weight": s for n, s in pairs.items()} | {f"{n}.bias": s[:1] for n, s in pairs.items()} | tables


@torch.no_grad()
def test_the_authors_layout_is_read_without_a_copy_and_written_back():
    k = PixArtConfig(
        width=1152, layers=2, context=12, null_tokens=5, sizes=True, compression=KVCompression(layers=(1,)), scale=2.0
    )
    net = k.build()
    state = write(single.links(net), net.state_dict())
    shapes = {name: tuple(v.shape) for name, v in state.items()}
    assert shapes == _original(k)
    assert single.config(shapes, 512, scale=2.0) == k
    tensors, missing, unused = read(single.links(net), state)
    assert (missing, unused) == ([], [])
    assert tensors.keys() == net.state_dict().keys()
    assert all(torch.equal(v, net.state_dict()[name]) for name, v in tensors.items())
    storages = {v.untyped_storage().data_ptr() for v in state.values()}
    assert {v.untyped_storage().data_ptr() for v in tensors.values()} <= storages
    assert single.ignored("pos_embed")


@torch.no_grad()
def test_a_packed_matrix_holds_queries_then_keys_then_values():
    k = PixArtConfig(width=1152, layers=1, context=12)
    net = k.build()
    state = write(single.links(net), net.state_dict())
    block = net.blocks[0]
    assert torch.equal(state["blocks.0.attn.qkv.weight"][1152:2304], block.attention.k.weight)
    assert torch.equal(state["blocks.0.cross_attn.kv_linear.bias"][1152:], block.cross.v.bias)
    with pytest.raises(InputError, match="width 100"):
        single.config({"x_embedder.proj.weight": (100, 4, 2, 2)}, 512)


MOVED = {
    "x_embedder.proj": "pos_embed.proj",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "t_embedder.mlp.0": "adaln_single.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "adaln_single.emb.timestep_embedder.linear_2",
    "csize_embedder.mlp.0": "adaln_single.emb.resolution_embedder.linear_1",
    "csize_embedder.mlp.2": "adaln_single.emb.resolution_embedder.linear_2",
    "ar_embedder.mlp.0": "adaln_single.emb.aspect_ratio_embedder.linear_1",
    "ar_embedder.mlp.2": "adaln_single.emb.aspect_ratio_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "final_layer.linear": "proj_out",
}
BLOCK = {
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "cross_attn.q_linear": "attn2.to_q",
    "cross_attn.proj": "attn2.to_out.0",
}


@torch.no_grad()
def test_the_authors_layout_becomes_diffusers():
    theirs = _model("1024")
    net = ours(LAYOUT, theirs)
    state = write(single.links(net), net.state_dict())
    out = {"scale_shift_table": state.pop("final_layer.scale_shift_table")}
    for part in ("weight", "bias"):
        out |= {f"{new}.{part}": state.pop(f"{old}.{part}") for old, new in MOVED.items()}
        for i in range(2):
            a, b = f"blocks.{i}.", f"transformer_blocks.{i}."
            out |= {f"{b}{new}.{part}": state.pop(f"{a}{old}.{part}") for old, new in BLOCK.items()}
            for attn, packed, names in (("attn1", "attn.qkv", "qkv"), ("attn2", "cross_attn.kv_linear", "kv")):
                values = state.pop(f"{a}{packed}.{part}").chunk(len(names))
                out |= {f"{b}{attn}.to_{n}.{part}": v for n, v in zip(names, values, strict=True)}
    for i in range(2):
        out[f"transformer_blocks.{i}.scale_shift_table"] = state.pop(f"blocks.{i}.scale_shift_table")
    assert not state
    assert out.keys() == theirs.state_dict().keys()
    assert all(torch.equal(v, theirs.state_dict()[name]) for name, v in out.items())
