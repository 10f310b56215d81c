"""LoHa and LoKr: the same weights as peft's and as the formula, written out, for every shape that files have."""

import json

import peft
import pytest
import torch
from safetensors.torch import save_file
from test_interop_lora import _equal, _layers, _pair, _random

from sfumato import CheckpointError, InputError
from sfumato.control.lora import attached, merged
from sfumato.interop.lora import network_part, read_lora, write_lora

CONFIGS = {
    "loha": lambda **k: peft.LoHaConfig(r=3, **k),
    "loha with Tucker's core": lambda **k: peft.LoHaConfig(r=3, use_effective_conv2d=True, **k),
    "lokr": lambda **k: peft.LoKrConfig(r=2, **k),
    "lokr of two products": lambda **k: peft.LoKrConfig(r=1, decompose_both=True, decompose_factor=4, **k),
    "lokr of whole matrices": lambda **k: peft.LoKrConfig(r=64, **k),
    "lokr with Tucker's core": lambda **k: peft.LoKrConfig(r=2, use_effective_conv2d=True, **k),
}


@pytest.mark.parametrize("form", ["kohya", "peft"])
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("name", ["sd1", "mmdit"])
@torch.no_grad()
def test_pefts_products_on_every_layer(name, kind, form, tmp_path):
    theirs, net, layout = _pair(name)
    part = network_part(net)
    layers = _layers(theirs, part)
    # LyCORIS, unlike peft, has no scale for LoKr of two whole matrices, which small layers have
    same = form == "kohya" and kind.startswith("lokr")
    alpha = 3.0 if not same else 64.0 if "whole" in kind else 1.0 if "two" in kind else 2.0
    model = peft.get_peft_model(theirs, CONFIGS[kind](alpha=alpha, target_modules=sorted(layers)))
    tensors = {}
    for i, (path, value) in enumerate(model.named_parameters()):
        if ".default" not in path:
            continue
        value.copy_(_random(value.shape, i))
        module, role = path.removeprefix("base_model.model.").removesuffix(".default").rsplit(".", 1)
        if form == "peft":
            tensors[f"base_model.model.{module}.{role}"] = value.clone()
        else:
            stem = "lora_unet_" + module.replace(".", "_")
            tensors |= {f"{stem}.{role}": value.clone(), f"{stem}.alpha": torch.tensor(alpha)}
    if form == "peft":
        (tmp_path / "lora").mkdir()
        file = tmp_path / "lora" / "adapter_model.safetensors"
        config = {
            k: v for k, v in model.peft_config["default"].to_dict().items() if k in ("r", "alpha", "alpha_pattern")
        }
        file.with_name("adapter_config.json").write_text(json.dumps(config))
    else:
        file = tmp_path / "lora.safetensors"
    roles = {n.rsplit(".", 1)[1] for n in tensors} - {"alpha"}
    assert ("hada_w1_a" in roles) == kind.startswith("loha")
    assert ("lokr_w1_a" in roles) == (kind == "lokr of two products")
    assert ("lokr_w2_a" in roles) == (kind.startswith("lokr") and "whole" not in kind)
    assert bool(roles & {"hada_t1", "lokr_t2"}) == ("core" in kind and (name == "sd1" or kind.startswith("loha")))
    save_file(tensors, file)
    found = read_lora(file.parent if form == "peft" else file, {"net": part})
    assert not found.unmatched
    for module in model.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.merge()
    state = {k.replace(".base_layer", ""): v for k, v in theirs.state_dict().items() if ".default" not in k}
    before = {k: v.clone() for k, v in net.state_dict().items()}
    changed = merged(net, [(found.loras["net"], 1.0)])
    _equal(layout, changed, state)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert any(not torch.allclose(v, before[k], atol=1e-2) for k, v in changed.state_dict().items())
    write_lora(tmp_path / "plain.safetensors", found.loras, {"net": part}, "kohya")  # as the LoRA that it is
    again = read_lora(tmp_path / "plain.safetensors", {"net": part})
    _equal(layout, merged(net, [(again.loras["net"], 1.0)]), state)


@torch.no_grad()
def test_the_formulas_merged_and_live(tmp_path):
    _, net, _ = _pair("sd1")
    part = network_part(net)
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_"
    layer = net.get_submodule("middle.0.transformer.blocks.0.attn1.q")
    a, b, c, d = (_random(shape, i) for i, shape in enumerate([(32, 2), (2, 32), (32, 2), (2, 32)]))
    w1, w2 = _random((4, 4), 8), _random((8, 8), 9)
    tensors = dict(zip((f"{stem}q.hada_w{i}_{j}" for i in "12" for j in "ab"), (a, b, c, d), strict=True))
    tensors |= {f"{stem}q.alpha": torch.tensor(3.0), f"{stem}k.lokr_w1": w1, f"{stem}k.lokr_w2": w2}
    tensors |= {f"{stem}k.alpha": torch.tensor(5.0)}  # of two whole matrices it counts for nothing
    v1, v2, v3 = _random((4, 4), 10), _random((8, 2), 11), _random((2, 8), 12)
    tensors |= {f"{stem}v.lokr_w1": v1, f"{stem}v.lokr_w2_a": v2, f"{stem}v.lokr_w2_b": v3}
    tensors |= {f"{stem}v.alpha": torch.tensor(5.0)}
    save_file(tensors, tmp_path / "x.safetensors")
    found = read_lora(tmp_path / "x.safetensors", {"net": part}).loras["net"]
    both = [(found, 0.7)]
    plain, one = net.state_dict(), merged(net, both).state_dict()
    q, k, v = (f"middle.0.transformer.blocks.0.attn1.{n}.weight" for n in "qkv")
    torch.testing.assert_close(one[v] - plain[v], 0.7 * 5 / 2 * torch.kron(v1, v2 @ v3), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one[q] - plain[q], 0.7 * 3 / 2 * (a @ b) * (c @ d), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(one[k] - plain[k], 0.7 * torch.kron(w1, w2), rtol=1e-4, atol=1e-6)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    live = attached(net, both).get_submodule("middle.0.transformer.blocks.0.attn1.q")
    torch.testing.assert_close(live(x), x @ one[q].T, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(live(x), layer(x), atol=1e-3)


def test_what_is_no_product_is_refused(tmp_path):
    _, net, _ = _pair("sd1")
    parts = {"net": network_part(net)}
    file, stem = tmp_path / "x.safetensors", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"

    def says(message, tensors, kind=InputError):
        save_file({f"{stem}.{k}": torch.ones(v) if isinstance(v, tuple) else v for k, v in tensors.items()}, file)
        with pytest.raises(kind, match=message) as caught:
            read_lora(file, parts)
        assert "\n" not in str(caught.value)

    good = {"hada_w1_a": (32, 2), "hada_w1_b": (2, 32), "hada_w2_a": (32, 2), "hada_w2_b": (2, 32)}
    says("without its other half", {k: v for k, v in good.items() if k != "hada_w2_b"}, CheckpointError)
    says("without its other half", good | {"hada_t1": (2, 2, 1, 1)}, CheckpointError)
    says("without its other half", good | {"lora_down.weight": (2, 32), "lora_up.weight": (32, 2)}, CheckpointError)
    says("without its other half", {"lokr_w1": (4, 4)}, CheckpointError)
    says("without its other half", {"lokr_w1": (4, 4), "lokr_w1_a": (4, 1), "lokr_w2": (8, 8)}, CheckpointError)
    says("is no hada_w1_a", good | {"hada_w1_a": (32,)}, CheckpointError)
    says("make no matrix of 32 x 32: it was made for another", good | {"hada_w1_a": (64, 2)})
    says("make no matrix of 32 x 32", good | {"hada_w1_b": (2, 31)})
    says("do not go together", good | {"hada_w1_a": (32, 3)}, CheckpointError)
    says("make no matrix of 32 x 32", {"lokr_w1": (4, 4), "lokr_w2": (4, 8)})
    says("make no matrix", {k: (32, 999) if k.endswith("a") else (999, 32) for k in good})  # a rank of a million
    says("make no matrix", {"lokr_w1": (30_000, 1), "lokr_w2": (30_000, 1)})
    says("would change nothing", good | {"hada_w2_a": torch.zeros(32, 2)})
