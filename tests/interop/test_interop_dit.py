"""DiT against diffusers' class on the same weights, and in its authors' own layout."""

from dataclasses import replace

import pytest
import torch
from interop_parity import distance, halved, idle, ours, scrambled

from sfumato import InputError
from sfumato.core.errors import CheckpointError
from sfumato.interop.diffusers.dit import LAYOUT
from sfumato.interop.links import read, write
from sfumato.interop.single import dit as single
from sfumato.nets.dit import AdaLN, DiTConfig, dit_xl

diffusers = pytest.importorskip("diffusers")

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_layers": 3,
    "sample_size": 8,
    "num_embeds_ada_norm": 10,
}
VARIANTS = {"released": {"out_channels": 8}, "patch-4": {"patch_size": 4}, "eps": {"norm_eps": 1e-2}}
T, Y = torch.tensor([3, 700]), torch.tensor([4, 10])


def _model(name):
    theirs = scrambled(diffusers.DiTTransformer2DModel(**(TINY | VARIANTS[name])))
    first = theirs.transformer_blocks[0].norm1.emb
    for block in theirs.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first.state_dict())
    return theirs


def _x(net):
    return torch.randn(2, net.config.channels, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", VARIANTS)
@torch.no_grad()
def test_the_same_output_as_diffusers(name):
    theirs = _model(name)
    net = ours(LAYOUT, theirs)
    x = _x(net)
    expected = theirs(x, T, Y).sample
    assert distance(net(x, T.float(), y=Y), expected) < 1e-5
    assert torch.equal(net.trunk(x, net.embed(T.float()), **net.condition(y=Y)), net(x, T.float(), y=Y))
    half = halved(net)(x.bfloat16(), T.float(), y=Y).float()
    assert distance(half, expected) < max(1e-2, 1.5 * distance(halved(theirs)(x.bfloat16(), T, Y).sample, expected))


def test_every_weight_shows():
    net = ours(LAYOUT, _model("released"))
    x = _x(net)
    assert idle(net, lambda n: n(x, T.float(), y=Y)) == []


def test_embedders_that_differ_between_blocks_are_refused():
    theirs = _model("released")
    net = LAYOUT.config(dict(theirs.config)).build()
    state = theirs.state_dict()
    state["transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"][0, 0] += 1
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.2"):
        read(LAYOUT.links(net), state)


@pytest.mark.parametrize("change", [{"norm_elementwise_affine": True}, {"activation_fn": "geglu"}, {"tomorrow": 1}])
def test_a_setting_that_is_not_known_is_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        LAYOUT.config(TINY | change)


@pytest.mark.parametrize("change", [{"conditioning": AdaLN()}, {"num_classes": None}, {"mlp_ratio": 3.0}])
def test_what_their_class_cannot_be_is_not_written(change):
    with pytest.raises(InputError, match="DiTTransformer2DModel"):
        LAYOUT.write(replace(LAYOUT.config(TINY), **change))


def _original(k):
    """The names and shapes of the authors' code, written out from its modules."""
    d, p = k.width, k.patch
    pairs = {
        "x_embedder.proj": (d, k.channels, p, p),
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "final_layer.linear": (p * p * k.out_channels, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
    }
    for i in range(k.layers):
        pairs |= {
            f"blocks.{i}.attn.qkv": (3 * d, d),
            f"blocks.{i}.attn.proj": (d, d),
            f"blocks.{i}.mlp.fc1": (4 * d, d),
            f"blocks.{i}.mlp.fc2": (d, 4 * d),
            f"blocks.{i}.adaLN_modulation.1": (6 * d, d),
        }
    shapes = {f"{n}.weight": s for n, s in pairs.items()} | {f"{n}.bias": s[:1] for n, s in pairs.items()}
    return shapes | {
        "y_embedder.embedding_table.weight": (k.num_classes + 1, d),
        "pos_embed": (1, (k.size // p) ** 2, d),
    }


def test_the_authors_layout_is_read_without_a_copy_and_written_back():
    k = DiTConfig(size=8, patch=4, width=384, layers=2, heads=6, out_channels=8, num_classes=10)
    net = k.build()
    state = write(single.links(net), net.state_dict())
    shapes = {name: tuple(v.shape) for name, v in state.items()}
    assert shapes == _original(k)
    assert single.config(shapes) == k
    tensors, missing, unused = read(single.links(net), state)
    assert not missing
    assert not unused
    assert tensors.keys() == net.state_dict().keys()
    assert all(
        torch.equal(v, net.state_dict()[n]) and v.data_ptr() == net.state_dict()[n].data_ptr()
        for n, v in tensors.items()
    )
    state["pos_embed"] = torch.randn(state["pos_embed"].shape)
    with pytest.raises(CheckpointError, match="trained positions"):
        read(single.links(net), state)


def test_the_shapes_of_the_released_file_tell_its_configuration():
    k = replace(dit_xl(), out_channels=8, num_classes=1000)
    assert single.config(_original(k)) == k
    with pytest.raises(InputError, match="width 100"):
        single.config({"x_embedder.proj.weight": (100, 4, 2, 2)})
