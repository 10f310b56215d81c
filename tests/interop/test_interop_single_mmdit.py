"""Stable Diffusion 3 in one file: what diffusers' own converter makes of it is what we read, bit for bit, and back."""

import pytest
import torch
from interop_parity import scrambled

from sfumato import CheckpointError
from sfumato.interop.diffusers.mmdit import LAYOUT
from sfumato.interop.links import read, write
from sfumato.interop.single.mmdit import PREFIX, config, links
from sfumato.nets.mmdit import MMDiTConfig, sd35_medium
from sfumato.pipeline.folder import empty

converter = pytest.importorskip("diffusers.loaders.single_file_utils")

TINY = MMDiTConfig(
    channels=4, out_channels=4, layers=3, heads=2, context=12, pooled=10, positions=6, normed=True, dual=(0, 1)
)


def _file(shape=TINY):
    net = scrambled(shape.build())
    return net, write(links(net), net.state_dict())


@pytest.mark.parametrize("shape", [TINY, MMDiTConfig(layers=2, heads=1, context=8, pooled=6, positions=4)])
def test_the_reading_is_that_of_their_converter_and_ours_of_its_folder(shape):
    net, file = _file(shape)
    folder = converter.convert_sd3_transformer_checkpoint_to_diffusers(dict(file))
    tensors, missing, unused = read(LAYOUT.links(net), folder)
    assert (missing, unused) == ([], [])
    direct, missing, unused = read(links(net), file)
    assert (missing, unused) == ([], [])
    assert set(direct) == set(tensors) == set(net.state_dict())
    assert all(torch.equal(direct[name], tensors[name]) for name in direct)
    assert all(torch.equal(direct[name], value) for name, value in net.state_dict().items())


def test_reading_copies_nothing():
    net, file = _file()
    where = {value.untyped_storage().data_ptr() for value in file.values()}
    tensors, _, _ = read(links(net), file)
    assert all(value.untyped_storage().data_ptr() in where for value in tensors.values())


def test_the_shapes_say_the_configuration():
    _, file = _file()
    assert config({name: value.shape for name, value in file.items()}) == TINY
    net = empty(sd35_medium(), torch.float16)
    published = write(links(net, ""), net.state_dict())
    assert config({name: value.shape for name, value in published.items()}, "") == sd35_medium()
    # what other tools know these files by
    assert published["pos_embed"].shape == (1, 384**2, 1536)
    assert published["joint_blocks.0.context_block.adaLN_modulation.1.bias"].shape == (9216,)
    assert published["joint_blocks.23.context_block.adaLN_modulation.1.bias"].shape == (3072,)
    with pytest.raises(CheckpointError, match="not a Stable Diffusion 3 file"):
        config({PREFIX + "input_blocks.0.0.weight": (320, 4, 3, 3)})
