"""Adapters by their formulas; a network with them shares its tensors, saves none of them silently, and compiles."""

import pytest
import torch
from torch import nn

from sfumato import InputError
from sfumato.control.lora import Adapter, LoRA, attached, merged
from sfumato.nets.blocks.kernels import linear_gelu, packed
from sfumato.nets.mmdit import MMDiTConfig


def _draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 7 * sum(shape)))


def _toy():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.Flatten(2), nn.Linear(16, 5), nn.Linear(5, 4))


CONV = Adapter(down=_draw(2, 3, 3, 3), up=_draw(6, 2), scale=0.5)
LINEAR = Adapter(down=_draw(2, 16), up=_draw(5, 2), scale=0.5, magnitude=_draw(5).abs() + 1)
PART = Adapter(down=_draw(1, 5), up=_draw(2, 1), rows=torch.tensor([3, 1]))
LORA = LoRA({"0": (CONV,), "2": (LINEAR,), "3": (PART,)})


def test_the_formulas_written_out():
    net = _toy()
    conv, linear, last = (net[i].weight.detach() for i in (0, 2, 3))
    expected = 0.5 * torch.einsum("or,rikl->oikl", CONV.up, CONV.down)
    torch.testing.assert_close(CONV.change(conv), expected)
    changed = linear + 0.5 * LINEAR.up @ LINEAR.down
    expected = LINEAR.magnitude[:, None] * changed / changed.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(linear + LINEAR.change(linear), expected)
    change = PART.change(last)
    torch.testing.assert_close(change[[3, 1]], PART.up @ PART.down)
    assert not change[[0, 2]].any()


@torch.no_grad()
def test_live_and_merged_agree_at_any_strength_and_batch():
    net, x = _toy(), _draw(2, 3, 8, 8)
    other = LoRA({"0": (CONV, CONV), "2": (Adapter(down=_draw(1, 16, seed=4), up=_draw(5, 1, seed=4)),)})
    for loras in ([(LORA, 1.0)], [(LORA, -0.3), (other, 2.0)]):
        torch.testing.assert_close(attached(net, loras)(x), merged(net, loras)(x), rtol=1e-5, atol=1e-5)
    live = attached(net, [(LORA, 0.8)])
    compiled = torch.compile(live, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), live(x))


@torch.no_grad()
def test_a_live_layer_is_never_bypassed_by_a_faster_kernel():
    # a kernel that reads the weight itself, and one that packs it, must see the adapter or leave the layer alone
    net = nn.Sequential(nn.Linear(16, 32))
    lora = LoRA({"0": (Adapter(down=_draw(2, 16), up=_draw(32, 2)),)})
    x = _draw(40, 16)
    live = attached(net, [(lora, 1.0)])
    expected = nn.functional.gelu(merged(net, [(lora, 1.0)])(x), approximate="tanh")
    torch.testing.assert_close(linear_gelu(live[0], x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(linear_gelu(packed(live)[0], x), expected, rtol=1e-5, atol=1e-5)


def test_tensors_are_shared_and_what_is_live_shows_in_the_state():
    net = _toy()
    live, whole = attached(net, [(LORA, 1.0)]), merged(net, [(LoRA({"2": (LINEAR,)}), 1.0)])
    mine = {n: p for n, p in net.named_parameters()}
    assert all(p is mine[n] for n, p in live.named_parameters())
    assert {n for n, p in whole.named_parameters() if p is not mine[n]} == {"2.weight"}
    # so that a hash sees it and writing the network alone is refused
    assert live.state_dict().keys() > net.state_dict().keys()
    assert live.half()[2].lora_up.dtype == torch.float16


def test_half_precision_rounds_once():
    net = _toy().bfloat16()
    exact = merged(net.float(), [(LORA, 1.0), (LORA, -0.97)])[2].weight
    assert torch.equal(merged(net.bfloat16(), [(LORA, 1.0), (LORA, -0.97)])[2].weight, exact.bfloat16())


def test_what_is_not_there_or_of_another_shape_is_refused():
    for layer, says in (("2", "made for another model"), ("9", "has no linear layer"), ("1", "has no linear layer")):
        with pytest.raises(InputError, match=says):
            merged(_toy(), [(LoRA({layer: (CONV,)}), 1.0)])
    assert Adapter(down=_draw(2, 5), up=torch.zeros(4, 2)).idle
    assert not LINEAR.idle


@torch.no_grad()
def test_a_whole_transformer_compiles_with_adapters():
    config = MMDiTConfig(channels=4, out_channels=4, layers=1, heads=2, head_width=8, context=12, pooled=6, positions=6)
    net = config.build().eval()
    lora = LoRA({"blocks.0.mlp.fc1": (Adapter(down=_draw(2, 16), up=_draw(64, 2)),)})
    live = attached(net, [(lora, 1.0)])
    x, t = _draw(1, 4, 8, 8), torch.tensor([500.0])
    cond = {"context": _draw(1, 5, 12), "pooled": _draw(1, 6)}
    compiled = torch.compile(live, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, t, **cond), live(x, t, **cond))
