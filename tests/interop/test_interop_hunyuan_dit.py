"""Hunyuan-DiT against diffusers' class on the same weights, told everything that its versions are told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError
from sfumato.interop.diffusers.hunyuan_dit import LAYOUT
from sfumato.interop.links import read, write
from sfumato.interop.single import hunyuan_dit as single

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "patch_size": 2,
    "hidden_size": 32,
    "num_layers": 6,
    "mlp_ratio": 2.7,
    "cross_attention_dim": 12,
    "cross_attention_dim_t5": 16,
    "pooled_projection_dim": 10,
    "text_len": 5,
    "text_len_t5": 7,
}
VARIANTS = {
    "1.1": {},
    "1.2": {"use_style_cond_and_image_meta_size": False},
    "no-variance": {"learn_sigma": False, "patch_size": 1, "num_layers": 2},
}
SHAPES = {"1.1": (8, 12), "1.2": (8, 8), "no-variance": (6, 3)}


def _model(name):
    return scrambled(diffusers.HunyuanDiT2DModel(**(TINY | VARIANTS[name])))


def _rotary(config, height, width):
    """The table that the authors' code makes, for diffusers' class, which takes it as an input."""
    rows, columns = height // config.patch, width // config.patch
    region = diffusers.pipelines.hunyuandit.pipeline_hunyuandit.get_resize_crop_region_for_grid
    (top, left), (bottom, right) = region((rows, columns), 32)
    grid_h = np.linspace(top, bottom, rows, endpoint=False, dtype=np.float32)
    grid_w = np.linspace(left, right, columns, endpoint=False, dtype=np.float32)
    grid = torch.tensor(np.stack(np.meshgrid(grid_w, grid_h)))[:, None]
    table = diffusers.models.embeddings.get_2d_rotary_pos_embed_from_grid
    return table(config.width // config.heads, grid, use_real=True)


def _inputs(config, name, seed=0):
    g = torch.Generator().manual_seed(seed)
    cond = {
        "context": torch.randn(2, 5, 12, generator=g),
        "context_mask": torch.tensor([[1, 1, 1, 0, 0], [1] * 5]),
        "context_2": torch.randn(2, 7, 16, generator=g),
        "context_2_mask": torch.tensor([[1] * 7, [1, 1, 0, 0, 0, 0, 0]]),
    }
    theirs = {
        "encoder_hidden_states": cond["context"],
        "text_embedding_mask": cond["context_mask"],
        "encoder_hidden_states_t5": cond["context_2"],
        "text_embedding_mask_t5": cond["context_2_mask"],
    }
    if config.styles:
        cond["sizes"] = torch.tensor([[1024.0, 768, 512, 640, 3, 17], [512, 512, 1024, 1024, 0, 5]])
        theirs |= {"image_meta_size": cond["sizes"], "style": torch.zeros(2, dtype=torch.long)}
    x = torch.randn(2, 4, *SHAPES[name], generator=g)
    theirs["image_rotary_emb"] = _rotary(config, *SHAPES[name])
    return x, torch.tensor([3.0, 700.0]), cond, theirs


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_output_as_diffusers(name):
    theirs = _model(name)
    net = ours(LAYOUT, theirs)
    x, t, cond, more = _inputs(net.config, name)
    expected = theirs(x, t, **more).sample
    assert distance(net(x, t, **cond), expected) < 1e-5
    assert torch.equal(net.trunk(x, net.embed(t), **net.condition(**cond)), net(x, t, **cond))
    one = net.trunk(x, net.embed(t[:1]), **net.condition(**cond))
    assert distance(one, net(x, t[:1].expand(2), **cond)) < 1e-5
    cast = lambda v: v.bfloat16() if isinstance(v, torch.Tensor) and v.dtype == torch.float32 else v
    half = halved(theirs)(x.bfloat16(), t.bfloat16(), **{key: cast(v) for key, v in more.items()}).sample
    assert distance(halved(net)(x.bfloat16(), t, **cond).float(), expected) < max(1e-2, 1.5 * distance(half, expected))


@torch.no_grad()
def test_square_positions_are_those_of_their_pipeline():
    net = ours(LAYOUT, _model("1.2"))
    x, t, cond, _ = _inputs(net.config, "1.2")
    theirs = _model("1.2")
    region = diffusers.pipelines.hunyuandit.pipeline_hunyuandit.get_resize_crop_region_for_grid((4, 4), 32)
    table = diffusers.models.embeddings.get_2d_rotary_pos_embed(16, region, (4, 4))
    more = _inputs(net.config, "1.2")[3] | {"image_rotary_emb": table}
    assert distance(net(x, t, **cond), theirs(x, t, **more).sample) < 1e-5


def test_every_weight_shows():
    net = ours(LAYOUT, _model("1.1"))
    x, t, cond, _ = _inputs(net.config, "1.1")
    # what is added to all keys alike shifts all logits of a query alike; keys of a text are not turned
    same = ["pool.k.bias", *(f"blocks.{i}.cross.norm_k.bias" for i in range(6))]
    assert idle(net, lambda n: n(x, t, **cond)) == same


@pytest.mark.parametrize("change", [{"hidden_size": 40}, {"activation_fn": "geglu"}, {"tomorrow": 1}])
def test_a_setting_that_is_not_known_is_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        LAYOUT.config(TINY | change)


@pytest.mark.parametrize("change", [{"styles": 2}, {"base": 16}, {"out_channels": 5}])
def test_what_their_class_cannot_be_is_not_written(change):
    with pytest.raises(InputError, match="HunyuanDiT2DModel"):
        LAYOUT.write(replace(LAYOUT.config(TINY), **change))


def _converted(state, layers):
    """diffusers' tensors of the authors', as its converter makes them: written out a second time."""
    out = dict(state)
    for i in range(layers):
        block = f"blocks.{i}."
        for part in ("weight", "bias"):
            q, k, v = out.pop(f"{block}attn1.Wqkv.{part}").chunk(3)
            k_2, v_2 = out.pop(f"{block}attn2.kv_proj.{part}").chunk(2)
            for name, value in (("q", q), ("k", k), ("v", v)):
                out[f"{block}attn1.to_{name}.{part}"] = value
            for name, value in (("q", out.pop(f"{block}attn2.q_proj.{part}")), ("k", k_2), ("v", v_2)):
                out[f"{block}attn2.to_{name}.{part}"] = value
            for attn in ("attn1", "attn2"):
                out[f"{block}{attn}.to_out.0.{part}"] = out.pop(f"{block}{attn}.out_proj.{part}")
                for name in "qk":
                    out[f"{block}{attn}.norm_{name}.{part}"] = out.pop(f"{block}{attn}.{name}_norm.{part}")
            out[f"{block}norm1.norm.{part}"] = out.pop(f"{block}norm1.{part}")
            out[f"{block}norm1.linear.{part}"] = out.pop(f"{block}default_modulation.1.{part}")
            second, third = out.pop(f"{block}norm2.{part}"), out.pop(f"{block}norm3.{part}")
            out[f"{block}norm2.{part}"], out[f"{block}norm3.{part}"] = third, second
            out[f"{block}ff.net.0.proj.{part}"] = out.pop(f"{block}mlp.fc1.{part}")
            out[f"{block}ff.net.2.{part}"] = out.pop(f"{block}mlp.fc2.{part}")
    moved = {
        "pooler.": "time_extra_emb.pooler.",
        "style_embedder.": "time_extra_emb.style_embedder.",
        "t_embedder.mlp.0.": "time_extra_emb.timestep_embedder.linear_1.",
        "t_embedder.mlp.2.": "time_extra_emb.timestep_embedder.linear_2.",
        "x_embedder.": "pos_embed.",
        "mlp_t5.0.": "text_embedder.linear_1.",
        "mlp_t5.2.": "text_embedder.linear_2.",
        "extra_embedder.0.": "time_extra_emb.extra_embedder.linear_1.",
        "extra_embedder.2.": "time_extra_emb.extra_embedder.linear_2.",
        "final_layer.adaLN_modulation.1.": "norm_out.linear.",
        "final_layer.linear.": "proj_out.",
    }
    for name in list(out):
        for old, new in moved.items():
            if name.startswith(old):
                value = out.pop(name)
                swap = torch.cat(value.chunk(2)[::-1]) if new == "norm_out.linear." else value
                out[new + name.removeprefix(old)] = swap
                break
    return out


@pytest.mark.parametrize("name", ["1.1", "1.2"])
@torch.no_grad()
def test_the_authors_layout_becomes_diffusers_and_is_read_back(name):
    theirs = _model(name)
    net = ours(LAYOUT, theirs)
    state = write(single.links(net), net.state_dict())
    converted = _converted(state, 6)
    assert converted.keys() == theirs.state_dict().keys()
    assert all(torch.equal(v, theirs.state_dict()[key]) for key, v in converted.items())
    assert single.config({key: tuple(v.shape) for key, v in state.items()}) == net.config
    tensors, missing, unused = read(single.links(net), state)
    assert (missing, unused) == ([], [])
    assert all(torch.equal(v, net.state_dict()[key]) for key, v in tensors.items())
    storages = {v.untyped_storage().data_ptr() for v in state.values()}
    assert {v.untyped_storage().data_ptr() for v in tensors.values()} <= storages
