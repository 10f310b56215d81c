"""The single-file names of the KL autoencoder against diffusers' own converter, bit for bit and both ways."""

from dataclasses import replace

import pytest
import torch
from interop_parity import ours, scrambled
from safetensors.torch import save_file
from test_interop_kl import TINY, VARIANTS

from sfumato import load_codec
from sfumato.codecs.kl import sd, sd3, sdxl
from sfumato.core.errors import CheckpointError
from sfumato.interop.diffusers.kl import LAYOUT
from sfumato.interop.links import chained, read, write
from sfumato.interop.single.kl import PREFIX, config, links
from sfumato.pipeline.folder import empty

diffusers = pytest.importorskip("diffusers")


def _written(name):
    theirs = scrambled(diffusers.AutoencoderKL(**(TINY | VARIANTS[name])))
    codec = ours(LAYOUT, theirs)
    return theirs, codec, write(links(codec, ""), codec.state_dict())


@pytest.mark.parametrize("name", ["sd", "sd3", "f2 of three levels"])
@pytest.mark.parametrize("prefix", ["first_stage_model.", "vae."])
def test_what_is_written_is_what_diffusers_converts(name, prefix):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    theirs, codec, single = _written(name)
    converted = convert_ldm_vae_checkpoint({prefix + k: v for k, v in single.items()}, theirs.config)
    state = theirs.state_dict()
    assert set(converted) == set(state)
    assert all(torch.equal(converted[k], v) for k, v in state.items())
    tensors, missing, unused = read(links(codec, prefix), {prefix + k: v for k, v in single.items()})
    assert not missing
    assert not unused
    assert all(torch.equal(tensors[k], v) for k, v in codec.state_dict().items())


def test_the_names_are_those_of_the_first_release():
    single = _written("sd")[2]
    for name, shape in {
        "encoder.conv_in.weight": (16, 3, 3, 3),
        "encoder.down.0.block.1.conv2.bias": (16,),
        "encoder.down.0.downsample.conv.weight": (16, 16, 3, 3),
        "encoder.down.1.block.0.nin_shortcut.weight": (32, 16, 1, 1),
        "encoder.mid.attn_1.q.weight": (32, 32, 1, 1),
        "encoder.mid.attn_1.norm.weight": (32,),
        "encoder.norm_out.weight": (32,),
        "decoder.mid.block_2.norm1.weight": (32,),
        "decoder.mid.attn_1.proj_out.weight": (32, 32, 1, 1),
        "decoder.up.0.block.0.nin_shortcut.weight": (16, 32, 1, 1),
        "decoder.up.1.upsample.conv.bias": (32,),
        "quant_conv.weight": (8, 8, 1, 1),
        "post_quant_conv.bias": (4,),
    }.items():
        assert tuple(single[name].shape) == shape, name


@pytest.mark.parametrize("name", ["sd", "sd3", "f2 of three levels", "attention"])
def test_a_file_under_diffusers_names_is_read(name, tmp_path):
    """`vae/diffusion_pytorch_model.safetensors` by itself, as most autoencoders are passed on, and its older names."""
    changes = {"attention": {"down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D")}}.get(name)
    if changes is not None:
        changes |= {"up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D")}
    shape = TINY | (VARIANTS[name] if changes is None else changes)
    widths = tuple(32 * w for w in range(1, 1 + len(shape["block_out_channels"])))
    theirs = scrambled(diffusers.AutoencoderKL(**(shape | {"block_out_channels": widths, "norm_num_groups": 32})))
    theirs.save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    expected = ours(LAYOUT, theirs)
    weights = expected.state_dict()
    codec = load_codec(file, scale=0.5, shift=0.25)
    assert codec.config == replace(expected.config, scale=0.5, shift=0.25, upcast=False, mean=(), std=())
    found = codec.state_dict()
    assert all(torch.equal(v, found[k]) for k, v in weights.items())
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = theirs.state_dict()
    for new, old in older.items():
        state = {k.replace(f".{new}.", f".{old}."): v for k, v in state.items()}
    save_file(state, file)
    found = load_codec(file, scale=0.5).state_dict()
    assert all(torch.equal(v, found[k]) for k, v in weights.items())


def test_attention_at_a_level_keeps_its_place():
    single = _written("attention at a level")[2]
    assert "encoder.down.1.attn.0.q.weight" in single
    assert "decoder.up.1.attn.2.proj_out.bias" in single


def test_reading_copies_nothing():
    _, codec, single = _written("sd")
    tensors = read(links(codec, ""), single)[0]
    memory = {t.untyped_storage().data_ptr() for t in single.values()}
    assert all(t.untyped_storage().data_ptr() in memory for t in tensors.values())


def test_single_files_chain_to_folders():
    theirs, codec, single = _written("sd")
    # diffusers' names of ours, through the links of both layouts
    back = [type(link)(link.theirs, link.ours, link.write, link.read) for link in LAYOUT.links(codec)]
    folder = read(chained(back, links(codec, "")), single)[0]
    assert all(torch.equal(folder[k], v) for k, v in theirs.state_dict().items())


@pytest.mark.parametrize("kind", [sd, sdxl, sd3])
def test_the_configuration_is_read_from_the_shapes(kind):
    asked = kind()
    net = empty(asked, torch.float16)
    whole = {name: tuple(t.shape) for name, t in write(links(net), net.state_dict()).items()}
    assert all(name.startswith(PREFIX) for name in whole)
    assert config(whole, scale=asked.scale, shift=asked.shift, upcast=asked.upcast) == asked


def test_a_file_without_an_autoencoder_is_said_to_have_none():
    with pytest.raises(CheckpointError, match=r"encoder\.conv_in"):
        config({"model.x": (1,)}, scale=1.0)
