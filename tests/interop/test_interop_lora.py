"""LoRA files of every form: the same weights as peft's and as kohya's formula; what does not fit is refused by name."""

import copy
import importlib
import json

import diffusers
import peft
import pytest
import tiny_text
import torch
from diffusers.loaders.lora_base import _pack_dict_with_prefix
from interop_parity import distance, ours, scrambled
from safetensors.torch import load_file, save_file

from sfumato import CheckpointError, InputError
from sfumato.control.lora import Adapter, LoRA, attached, merged
from sfumato.interop.diffusers import dit, latent_unet, mmdit, pixart
from sfumato.interop.links import write
from sfumato.interop.lora import network_part, read_lora, tower_part, write_lora

UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}
XL = {
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 10 + 6 * 256,
}
MMDIT = {
    "sample_size": 8,
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "in_channels": 4,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 10,
    "pos_embed_max_size": 6,
}
DIT = {
    "sample_size": 8,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_embeds_ada_norm": 1000,
}
PIXART = {
    "sample_size": 8,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "caption_channels": 12,
    "cross_attention_dim": 16,
    "norm_type": "ada_norm_single",
}
KINDS = (torch.nn.Linear, torch.nn.Conv2d)


def _pair(name):
    kind, layout, config = {
        "sd1": (diffusers.UNet2DConditionModel, latent_unet.LAYOUT, UNET),
        "sdxl": (diffusers.UNet2DConditionModel, latent_unet.LAYOUT, UNET | XL),
        "mmdit": (diffusers.SD3Transformer2DModel, mmdit.LAYOUT, MMDIT),
        "dit": (diffusers.DiTTransformer2DModel, dit.LAYOUT, DIT),
        "pixart": (diffusers.PixArtTransformer2DModel, pixart.LAYOUT, PIXART),
    }[name]
    theirs = scrambled(kind(**config))
    if name == "dit":  # which holds the same embedders in every block
        for block in theirs.transformer_blocks[1:]:
            block.norm1.emb.load_state_dict(theirs.transformer_blocks[0].norm1.emb.state_dict())
    return theirs, copy.deepcopy(ours(layout, theirs)), layout  # theirs are changed in place


def _layers(model, part=None):
    """Return the paths of the layers that can be adapted: embedders that diffusers holds twice cannot."""
    known = None if part is None else part.dotted
    return {n: m for n, m in model.named_modules() if isinstance(m, KINDS) and (known is None or n in known)}


def _refilled(model, seed=1):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                p.copy_(0.3 * torch.randn(p.shape, generator=g))
            elif "lora_magnitude" in name:
                p.mul_(1 + 0.2 * torch.randn(p.shape, generator=g))


def _as_file(model, config, path, prefix):
    """Write the adapters of a model of theirs as diffusers does."""
    said = {k: list(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    header = {"lora_adapter_metadata": json.dumps(_pack_dict_with_prefix(said, prefix), default=str)}
    model.peft_config = {"default": config}
    state = {f"{prefix}.{k}": v.contiguous() for k, v in peft.get_peft_model_state_dict(model).items()}
    save_file(state, path, {"format": "pt"} | header)


def _random(shape, seed):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _kohya(theirs, names, *, alpha=True, mid=False, dora=False, rank=3):
    """Return (a file's tensors, their state with kohya's formula applied) for (module, name in the file)."""
    tensors, state = {}, {k: v.clone() for k, v in theirs.state_dict().items()}
    for i, (module, name) in enumerate(names.items()):
        weight = state[module + ".weight"]
        r = rank + i % 2
        wide = weight.ndim == 4
        side = weight.shape[2:]
        up = _random((len(weight), r, *(1, 1) * (wide)), 3 * i)
        if mid and wide and side[0] > 1:
            down, middle = _random((r, weight.shape[1], 1, 1), 3 * i + 1), _random((r, r, *side), 3 * i + 2)
            tensors[name + ".lora_mid.weight"] = middle
            delta = torch.einsum("or,rskl,si->oikl", up[:, :, 0, 0], middle, down[:, :, 0, 0])
        else:
            down = _random((r, *weight.shape[1:]), 3 * i + 1)
            delta = (up.flatten(1) @ down.flatten(1)).view_as(weight)
        tensors |= {name + ".lora_down.weight": down, name + ".lora_up.weight": up}
        scale = 1.0
        if alpha:
            tensors[name + ".alpha"] = torch.tensor(1.5 + i % 3)
            scale = (1.5 + i % 3) / r
        weight += scale * delta
        if dora:
            norm = weight.flatten(1).norm(dim=1)
            m = norm * (1 + 0.2 * _random(norm.shape, 5 * i))
            tensors[name + ".dora_scale"] = m.view(-1, *(1 for _ in side), 1) if wide else m[:, None]
            weight *= (m / norm).view(-1, *(1 for _ in weight.shape[1:]))
    return tensors, state


def _equal(layout, net, state):
    """Check that the weights of `net` are those of `state`."""
    back = write(layout.links(net), net.state_dict())
    for name, value in back.items():
        torch.testing.assert_close(value, state[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "mmdit", "dit", "pixart"])
@pytest.mark.parametrize("dora", [False, True])
@torch.no_grad()
def test_pefts_adapters_on_every_layer_with_patterns_of_ranks_and_alphas(name, dora, tmp_path):
    theirs, net, layout = _pair(name)
    part = network_part(net)
    layers = _layers(theirs, part)
    assert all(".norm1.emb." in n for n in _layers(theirs).keys() - layers.keys())
    odd = sorted(layers)[::3]
    config = peft.LoraConfig(
        r=3,
        lora_alpha=4.5,
        target_modules=sorted(layers),
        rank_pattern={f"^{n}": 2 for n in odd},
        alpha_pattern={f"^{n}": 5 for n in odd[::2]},
        use_dora=dora,
    )
    peft.inject_adapter_in_model(config, theirs)
    _refilled(theirs)
    prefix = "unet" if name.startswith("sd") else "transformer"
    _as_file(theirs, config, tmp_path / "lora.safetensors", prefix)
    found = read_lora(tmp_path / "lora.safetensors", {"net": part})
    assert not found.unmatched
    for module in theirs.modules():
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()
    state = {k.replace(".base_layer", ""): v for k, v in theirs.state_dict().items() if ".lora_" not in k}
    changed = merged(net, [(found.loras["net"], 1.0)])
    _equal(layout, changed, state)
    plain = write(layout.links(net), net.state_dict())
    assert all(not torch.allclose(plain[n + ".weight"], state[n + ".weight"], atol=1e-3) for n in layers)


def _sgm(path):
    """Return the name in the authors' layout of a module of the U-Net with one layer a level."""
    table = {
        "down_blocks.0.resnets.0.": "input_blocks_1_0_",
        "down_blocks.0.downsamplers.0.conv": "input_blocks_2_0_op",
        "down_blocks.1.resnets.0.": "input_blocks_3_0_",
        "down_blocks.1.attentions.0.": "input_blocks_3_1_",
        "mid_block.resnets.0.": "middle_block_0_",
        "mid_block.attentions.0.": "middle_block_1_",
        "mid_block.resnets.1.": "middle_block_2_",
        "up_blocks.0.resnets.0.": "output_blocks_0_0_",
        "up_blocks.0.attentions.0.": "output_blocks_0_1_",
        "up_blocks.0.resnets.1.": "output_blocks_1_0_",
        "up_blocks.0.attentions.1.": "output_blocks_1_1_",
        "up_blocks.0.upsamplers.0.conv": "output_blocks_1_2_conv",
        "up_blocks.1.resnets.0.": "output_blocks_2_0_",
        "up_blocks.1.resnets.1.": "output_blocks_3_0_",
        "conv_in": "input_blocks_0_0",
        "conv_out": "out_2",
        "time_embedding.linear_1": "time_embed_0",
        "time_embedding.linear_2": "time_embed_2",
        "add_embedding.linear_1": "label_emb_0_0",
        "add_embedding.linear_2": "label_emb_0_2",
    }
    inner = {
        "conv1": "in_layers_2",
        "conv2": "out_layers_3",
        "time_emb_proj": "emb_layers_1",
        "conv_shortcut": "skip_connection",
    }
    stem = next(k for k in table if path.startswith(k))
    rest = path.removeprefix(stem)
    return table[stem] + inner.get(rest, rest.replace(".", "_"))


@pytest.mark.parametrize("kind", ["alpha", "none", "locon", "dora"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@torch.no_grad()
def test_kohyas_formula_in_both_namings_of_the_u_net(name, kind, tmp_path):
    theirs, net, layout = _pair(name)
    namer = (lambda path: path.replace(".", "_")) if name == "sd1" else _sgm
    names = {path: "lora_unet_" + namer(path) for path in _layers(theirs)}
    tensors, state = _kohya(theirs, names, alpha=kind != "none", mid=kind == "locon", dora=kind == "dora")
    save_file(tensors, tmp_path / "given.safetensors")
    part = network_part(net)
    found = read_lora(tmp_path / "given.safetensors", {"net": part})
    assert not found.unmatched
    _equal(layout, merged(net, [(found.loras["net"], 1.0)]), state)

    # written back in both forms, the same adapters come out
    for form in ("kohya", "peft"):
        write_lora(tmp_path / f"{form}.safetensors", found.loras, {"net": part}, form)
        again = read_lora(tmp_path / f"{form}.safetensors", {"net": part})
        assert not again.unmatched
        _equal(layout, merged(net, [(again.loras["net"], 1.0)]), state)
    stored = set(load_file(tmp_path / "kohya.safetensors"))
    assert stored == {k for k in tensors if ".lora_mid" not in k} | {f"{n}.alpha" for n in names.values()}
    with pytest.raises(InputError, match="is there already"):
        write_lora(tmp_path / "peft.safetensors", found.loras, {"net": part})


@pytest.mark.parametrize("dora", [False, True])
@torch.no_grad()
def test_kohyas_fused_matrices_of_stable_diffusion_3(dora, tmp_path):
    theirs, net, layout = _pair("mmdit")
    part = network_part(net)
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    streams = {"x_block": "to_{}", "context_block": "add_{}_proj"}
    tensors = {}
    for i, (stream, theirs_name) in enumerate(streams.items()):
        paths = [f"transformer_blocks.0.attn.{theirs_name.format(c)}.weight" for c in "qkv"]
        fused = torch.cat([state[p] for p in paths])
        down, up = _random((3, 16), i), _random((48, 3), 10 + i)
        changed = fused + 2.0 / 3 * up @ down
        stem = f"lora_unet_joint_blocks_0_{stream}_attn_qkv"
        tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(2.0)}
        if dora:
            m = fused.norm(dim=1) * 1.3
            tensors[f"{stem}.dora_scale"] = m[:, None]
            changed = m[:, None] * changed / changed.norm(dim=1, keepdim=True)
        state |= dict(zip(paths, changed.chunk(3), strict=True))
    down, up = _random((2, 16), 5), _random((64, 2), 6)
    stem = "lora_unet_joint_blocks_1_x_block_mlp_fc1"
    tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    state["transformer_blocks.1.ff.net.0.proj.weight"] += up @ down
    # the last norm's halves stand the other way round in the authors' files
    down, up = _random((2, 16), 7), _random((32, 2), 8)
    stem = "lora_unet_final_layer_adaLN_modulation_1"
    tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    state["norm_out.linear.weight"] += (up @ down).roll(16, 0)
    save_file(tensors, tmp_path / "sd3.safetensors")
    found = read_lora(tmp_path / "sd3.safetensors", {"net": part})
    assert not found.unmatched
    _equal(layout, merged(net, [(found.loras["net"], 1.0)]), state)
    for form in ("kohya", "peft"):
        write_lora(tmp_path / f"{form}.safetensors", found.loras, {"net": part}, form)
        again = read_lora(tmp_path / f"{form}.safetensors", {"net": part})
        _equal(layout, merged(net, [(again.loras["net"], 1.0)]), state)


@pytest.mark.parametrize("form", ["processors", "0.21", "peft"])
@torch.no_grad()
def test_the_older_names_of_diffusers(form, tmp_path):
    theirs, net, layout = _pair("sd1")
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    tensors = {}
    for i, part in enumerate(("to_q", "to_k", "to_v", "to_out")):
        down, up = _random((3, 32), i), _random((32, 3), 9 + i)
        path = part + ".0" if part == "to_out" else part
        half = {
            "processors": f"{stem}.processor.{part}_lora.%s.weight",
            "0.21": f"{stem}.{path}.lora.%s.weight",
            "peft": f"base_model.model.{stem.removeprefix('unet.')}.{path}.lora_%s.weight",
        }[form]
        tensors[half % ("A" if form == "peft" else "down")] = down
        tensors[half % ("B" if form == "peft" else "up")] = up
        state[f"{stem.removeprefix('unet.')}.{path}.weight"] += up @ down
    save_file(tensors, tmp_path / "old.safetensors")
    found = read_lora(tmp_path / "old.safetensors", {"net": network_part(net)})
    assert not found.unmatched
    _equal(layout, merged(net, [(found.loras["net"], 1.0)]), state)


@pytest.mark.parametrize("form", ["kohya", "peft", "attn", "linear layers"])
@torch.no_grad()
def test_text_encoders(form, tmp_path):
    model = tiny_text.clip_text(projection=24 if form == "peft" else None)
    base = {k: v.clone() for k, v in model.state_dict().items()}
    part = tower_part(model, 2 if form == "peft" else 1)
    tensors, expected = {}, {}
    paths = [f"text_model.encoder.layers.1.{n}" for n in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1")]
    if form == "peft":
        paths.append("text_projection")
    if form == "attn":
        paths = paths[:2]
    for i, path in enumerate(paths):
        local = path if path + ".weight" in base else path.removeprefix("text_model.")
        weight = base[local + ".weight"]
        down, up = _random((2, weight.shape[1]), i), _random((len(weight), 2), 7 + i)
        old = path.replace("q_proj", "to_q_lora").replace("out_proj", "to_out_lora")
        names = {
            "kohya": (f"lora_te_{path.replace('.', '_')}.lora_down.weight", "lora_up"),
            "peft": (f"text_encoder_2.{path}.lora_A.weight", "lora_B"),
            "attn": (f"text_encoder.{old}.down.weight", "up"),
            "linear layers": (f"text_encoder.{path}.lora_linear_layer.down.weight", "up"),
        }[form]
        tensors[names[0]] = down
        stem, _, _ = names[0].rpartition(".weight")
        tensors[stem.rpartition(".")[0] + f".{names[1]}.weight"] = up
        expected[local + ".weight"] = weight + up @ down
    save_file(tensors, tmp_path / "text.safetensors")
    found = read_lora(tmp_path / "text.safetensors", {"clip": part})
    assert not found.unmatched
    changed = merged(model, [(found.loras["clip"], 1.0)]).state_dict()
    for name, value in changed.items():
        torch.testing.assert_close(value, expected.get(name, base[name]), rtol=1e-5, atol=1e-5)
    ids = torch.randint(3, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    live = attached(model, [(found.loras["clip"], 1.0)])(input_ids=ids).last_hidden_state
    whole = merged(model, [(found.loras["clip"], 1.0)])(input_ids=ids).last_hidden_state
    assert distance(live, whole) < 1e-5
    assert distance(whole, model(input_ids=ids).last_hidden_state) > 1e-2
    write_lora(tmp_path / "again.safetensors", found.loras, {"clip": part}, "kohya")
    again = read_lora(tmp_path / "again.safetensors", {"clip": part})
    assert not again.unmatched
    assert again.loras["clip"].adapters.keys() == found.loras["clip"].adapters.keys()


@pytest.mark.parametrize("name", ["sd1", "sdxl", "mmdit", "dit", "pixart"])
@pytest.mark.parametrize("dora", [False, True])
@torch.no_grad()
def test_live_is_merged_on_every_layer(name, dora, tmp_path):
    theirs, net, _ = _pair(name)
    net = net.double()  # so that the network's own rounding, which processors differ in, is not what is measured
    part = network_part(net)
    names = {path: "lora_unet_" + path.replace(".", "_") for path in part.dotted}
    tensors, _ = _kohya(theirs, names, dora=dora)
    save_file({k: 0.3 * v if ".lora_up" in k else v for k, v in tensors.items()}, tmp_path / "lora.safetensors")
    lora = read_lora(tmp_path / "lora.safetensors", {"net": part}).loras["net"]
    g = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 4, 8, 8, generator=g).double(), torch.tensor([3.0, 700.0])
    given = {
        "context": torch.randn(2, 5, 12, generator=g),
        "pooled": torch.randn(2, 10, generator=g),
        "sizes": torch.rand(2, 6, generator=g) * 100,
        "y": torch.tensor([1, 3]),
    }
    cond = {k: v if k == "y" else v.double() for k, v in given.items() if k in net.cond}
    plain = net(x, t, **cond)
    for loras in ([(lora, 0.7)], [(lora, 0.7), (lora, -0.4)]):
        whole, live = merged(net, loras)(x, t, **cond), attached(net, loras)(x, t, **cond)
        assert distance(live, whole) < 3e-6
        assert distance(whole, plain) > 1e-3
    twice = attached(attached(net, [(lora, 0.7)]), [(lora, -0.4)])(x, t, **cond)
    assert distance(twice, whole) < 3e-6
    off = [merged(net, [(lora, 0.0)]), attached(net, [(lora, 0.0)])]
    assert all(torch.equal(n(x, t, **cond), plain) for n in off)
    shared = {id(p) for p in net.parameters()}
    assert all(id(p) in shared for n in (*off, attached(net, [(lora, 1.0)])) for p in n.parameters())
    assert torch.equal(net(x, t, **cond), plain)


def _nan():
    return torch.full((32, 2), torch.nan)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float16])
def test_an_alpha_of_any_kind_of_number_is_read(dtype, tmp_path):
    part = network_part(_pair("sd1")[1])
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{stem}.lora_down.weight": _random((2, 32), 1), f"{stem}.lora_up.weight": _random((32, 2), 2)}
    save_file(tensors | {f"{stem}.alpha": torch.tensor(3, dtype=dtype)}, tmp_path / "a.safetensors")
    (group,) = read_lora(tmp_path / "a.safetensors", {"net": part}).loras["net"].adapters.values()
    assert group[0].scale == 1.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha_pattern", ["x"]),
        ("alpha_pattern", {"to_q": "8"}),
        ("alpha_pattern", {"to_q": [1]}),
        ("rank_pattern", {"to_q": 1.5}),
        ("rank_pattern", 3),
        ("r", "4"),
        ("r", [4]),
        ("r", True),
        ("lora_alpha", "8"),
        ("lora_alpha", {}),
        ("lora_alpha", 10**400),
        ("lora_alpha", float("nan")),
        ("target_modules", 7),
        ("target_modules", ["to_q", 7]),
        ("use_rslora", "false"),
    ],
)
@pytest.mark.parametrize("place", ["beside", "header"])
def test_a_setting_of_the_wrong_kind_is_refused_by_name(name, value, place, tmp_path):
    part = network_part(_pair("sd1")[1])
    stem = "base_model.model.mid_block.attentions.0.proj_in"
    tensors = {f"{stem}.lora_A.weight": _random((2, 32, 1, 1), 1), f"{stem}.lora_B.weight": _random((32, 2, 1, 1), 2)}
    good = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["to_q"], "alpha_pattern": None}
    for settings in (good, good | {name: value}):
        if place == "beside":
            save_file(tensors, tmp_path / "adapter_model.safetensors")
            (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        else:
            said = json.dumps({f"unet.{k}": v for k, v in settings.items()})
            save_file(tensors, tmp_path / "adapter_model.safetensors", {"lora_adapter_metadata": said})
        if settings is good:
            read_lora(tmp_path, {"net": part})
            continue
        with pytest.raises(CheckpointError, match=rf"its setting '(unet\.)?{name}' is .*, which must be ") as refused:
            read_lora(tmp_path, {"net": part})
        assert "\n" not in str(refused.value)


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    net = _pair("sd1")[1]
    parts = {"net": network_part(net)}
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    good = {f"{stem}.lora_down.weight": _random((2, 32), 1), f"{stem}.lora_up.weight": _random((32, 2), 2)}
    file = tmp_path / "f.safetensors"

    def says(match, tensors, kind=InputError):
        save_file(tensors, file)
        with pytest.raises(kind, match=match):
            read_lora(file, parts)

    says(r"fits nothing here .*lora_unet_other", {k.replace(stem, "lora_unet_other"): v for k, v in good.items()})
    says("would change nothing", {k: v * ("up" not in k) for k, v in good.items()})
    says(r"lora_down.*made for another model", good | {f"{stem}.lora_down.weight": _random((2, 16), 1)})
    says(r"made for another model", good | {f"{stem}.lora_up.weight": _random((64, 2), 1)})
    says("without its other half", {f"{stem}.lora_down.weight": _random((2, 32), 1)}, CheckpointError)
    says("do not go together", good | {f"{stem}.lora_up.weight": _random((32, 3), 1)}, CheckpointError)
    says(r"oft_diag.* is of another kind", good | {f"{stem}.oft_diag": _random((32, 3), 1)})
    says("is no number", good | {f"{stem}.alpha": torch.tensor(torch.nan)}, CheckpointError)
    says("not one number a row", good | {f"{stem}.dora_scale": _random((1, 7), 1)})
    says(
        r"lora_up\.weight' has numbers that are not finite", good | {f"{stem}.lora_up.weight": _nan()}, CheckpointError
    )
    whole = {f"{stem}.lora_up.weight": torch.ones(32, 2, dtype=torch.int64)}
    says(r"lora_up\.weight' is torch\.int64 \[32, 2\], which is no up of a LoRA", good | whole, CheckpointError)
    flag = {f"{stem}.alpha": torch.tensor(True)}
    says(r"alpha' is torch\.bool \[\], which is no alpha", good | flag, CheckpointError)
    twice = {f"{stem}.lora.up.weight": _random((32, 2), 3)}
    says("stands there twice", good | twice, CheckpointError)
    says("fits nothing here", {"who.knows": torch.arange(3)})
    says("is no down of a LoRA", good | {f"{stem}.lora_down.weight": torch.tensor(1.0)}, CheckpointError)
    save_file(
        good
        | {"lora_unet_other.lora_down.weight": torch.ones(1, 1), "lora_unet_other.lora_up.weight": torch.ones(1, 1)},
        file,
    )
    assert set(read_lora(file, parts).unmatched) == {
        "lora_unet_other.lora_down.weight",
        "lora_unet_other.lora_up.weight",
    }
    with pytest.raises(InputError, match="there is no LoRA file"):
        read_lora(tmp_path / "none.safetensors", parts)
    (tmp_path / "a.pt").write_bytes(b"x")
    with pytest.raises(InputError, match="pickles are never read"):
        read_lora(tmp_path / "a.pt", parts)
    found = read_lora(file, parts).loras
    with pytest.raises(InputError, match="no form of LoRA files"):
        write_lora(tmp_path / "new.safetensors", found, parts, "other")
    with pytest.raises(InputError, match="has no linear layer or convolution 'middle"):
        merged(_pair("mmdit")[1], [(found["net"], 1.0)])


def _others():
    """Return one small network of every further class that diffusers has too."""
    text = {"caption_channels": 16, "cross_attention_dim": 16, "norm_type": "ada_norm_single", "out_channels": 8}
    made = {
        "pixart": (
            "PixArtTransformer2DModel",
            {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "sample_size": 8, **text},
        ),
        "unet": (
            "UNet2DModel",
            {
                "block_out_channels": (16, 32),
                "layers_per_block": 1,
                "norm_num_groups": 8,
                "sample_size": 8,
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
                "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            },
        ),
    }
    return {name: getattr(diffusers, kind)(**config) for name, (kind, config) in made.items()}


@pytest.mark.parametrize("form", ["peft", "kohya"])
@torch.no_grad()
def test_every_layer_of_every_network_has_one_name(form, tmp_path):
    nets = {name: _pair(name)[1] for name in ("sd1", "sdxl", "mmdit", "dit")}
    for name, theirs in _others().items():
        layout = importlib.import_module(f"sfumato.interop.diffusers.{name}").LAYOUT
        nets[name] = ours(layout, scrambled(theirs))
    for name, net in nets.items():
        part = network_part(net)
        reached = {place.layer for at in part.dotted.values() for place in at}
        shared = {"dit": {"time.mlp.0", "time.mlp.2"}}.get(name, set())  # which diffusers holds once a block
        assert reached == {n for n, m in net.named_modules() if isinstance(m, KINDS)} - shared, name
        table = part.dotted if form == "peft" else part.kohya
        assert len({path.replace(".", "_") for path in table}) == len(table)
        adapters = {
            layer: (Adapter(down=_random((2, *w.shape[1:]), i), up=_random((len(w), 2), i + 1), scale=0.5),)
            for i, layer in enumerate(sorted({place.layer for at in table.values() for place in at}))
            for w in [net.get_submodule(layer).weight]
        }
        loras = {"net": LoRA(adapters)}
        write_lora(tmp_path / f"{name}.safetensors", loras, {"net": part}, form)
        again = read_lora(tmp_path / f"{name}.safetensors", {"net": part})
        assert not again.unmatched
        first, second = (merged(net, [(lora, 1.0)]).state_dict() for lora in (loras["net"], again.loras["net"]))
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-5, atol=1e-5, msg=f"{name} {key}")


@torch.no_grad()
def test_pefts_own_folder_with_square_root_scales_and_patterns_by_the_end_of_a_name(tmp_path):
    theirs, net, layout = _pair("mmdit")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_k"], alpha_pattern={"attn.to_k": 3}, use_rslora=True
    )
    adapted = peft.get_peft_model(theirs, config)
    _refilled(adapted)
    adapted.save_pretrained(tmp_path)
    found = read_lora(tmp_path, {"net": network_part(net)})
    assert not found.unmatched
    assert len(found.loras["net"].adapters) == 4
    _equal(layout, merged(net, [(found.loras["net"], 1.0)]), adapted.merge_and_unload().state_dict())


@torch.no_grad()
def test_the_authors_names_of_sdxl_as_diffusers_reads_them(tmp_path):
    theirs, net, layout = _pair("sdxl")
    part = network_part(net)
    layers = [n for n, m in theirs.named_modules() if "attentions" in n and isinstance(m, torch.nn.Linear)]
    tensors, _ = _kohya(theirs, {path: "lora_unet_" + _sgm(path) for path in layers})
    # one alpha for all: diffusers 0.42 takes the commonest of a file for all of its attentions
    tensors = {k: torch.tensor(2.0) if k.endswith(".alpha") else v for k, v in tensors.items()}
    save_file(tensors, tmp_path / "xl.safetensors")
    state, alphas = diffusers.StableDiffusionXLPipeline.lora_state_dict(
        tmp_path / "xl.safetensors", unet_config=theirs.config
    )
    diffusers.StableDiffusionXLPipeline.load_lora_into_unet(state, network_alphas=alphas, unet=theirs)
    theirs.fuse_lora()
    theirs.unload_lora()
    lora = read_lora(tmp_path / "xl.safetensors", {"net": part}).loras["net"]
    _equal(layout, merged(net, [(lora, 1.0)]), theirs.state_dict())
