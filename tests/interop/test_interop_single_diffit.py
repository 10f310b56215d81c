"""DiffiT's published file: its tensors' names and shapes, both ways without a change."""

import pytest
import torch
from interop_parity import scrambled

from sfumato import CheckpointError
from sfumato.interop.links import read, write
from sfumato.interop.single.diffit import config, links
from sfumato.nets.diffit import DiffiTConfig, diffit_xl
from sfumato.pipeline.folder import empty

TINY = DiffiTConfig(size=8, width=16, layers=2, heads=2, num_classes=5)


def test_the_file_goes_round_bit_for_bit():
    net = scrambled(TINY.build())
    file = write(links(net), net.state_dict())
    tensors, missing, unused = read(links(net), file)
    assert (missing, unused) == ([], [])
    state = net.state_dict()
    assert set(tensors) == set(state)
    assert all(torch.equal(tensors[name], state[name]) for name in state)
    where = {value.untyped_storage().data_ptr() for value in file.values()}
    assert all(value.untyped_storage().data_ptr() in where for value in tensors.values())
    assert config({name: value.shape for name, value in file.items()}) == TINY
    # differences are counted row by row: here those of (0, 0) to (1, 2) and of (3, 3) to (0, 0)
    index = file["blocks.1.attn.relative_position_index"]
    assert index.shape == (16, 16)
    assert index[0, 6] == (0 - 1 + 3) * 7 + (0 - 2 + 3)
    assert index[15, 0] == 48


def test_the_published_shapes_say_the_configuration():
    net = empty(diffit_xl(), torch.float32)
    file = {name: tuple(value.shape) for name, value in write(links(net), net.state_dict()).items()}
    assert config(file) == diffit_xl()
    assert len(file) == 28 * 12 + 10
    assert file["blocks.27.attn.qkv_temb.weight"] == (3456, 1152)
    assert file["blocks.0.attn.relative_position_bias_table"] == (961, 16)
    assert file["pos_embed"] == (1, 256, 1152)
    with pytest.raises(CheckpointError, match="not a DiffiT file"):
        config({"joint_blocks.0.x_block.attn.qkv.weight": (3, 1)})
