"""Files of transformers under their authors' names: told by their tensors, written back as they were."""

import json
from dataclasses import replace

import diffusers
import pytest
import tiny_folders
import torch
from interop_parity import distance, scrambled
from safetensors.torch import load_file, save_file

import sfumato as sf
from sfumato.cli import main
from sfumato.core import LearnedVariance, VPLinear
from sfumato.interop.diffusers import lumina as folder_lumina
from sfumato.interop.diffusers.scheduler import betas
from sfumato.interop.links import read, write
from sfumato.interop.single import diffit, dit, hunyuan_dit, lumina, pixart, uvit
from sfumato.interop.single.writing import write_single
from sfumato.nets import DiffiTConfig, DiTConfig, HunyuanDiTConfig, LuminaConfig, PixArtConfig, UViTConfig
from sfumato.nets.lumina import lumina_next
from sfumato.nets.pixart import KVCompression

HUNYUAN = HunyuanDiTConfig(
    width=64, layers=2, heads=2, hidden=48, context=16, tokens=5, context_2=24, tokens_2=7, pooled=12
)
UVIT = {"size": 8, "layers": 1, "channels": 4}
NETS = {
    "dit": (dit, DiTConfig(size=8, out_channels=8, layers=2, num_classes=10)),
    "diffit": (diffit, DiffiTConfig(size=8, width=16, layers=2, heads=2, num_classes=5)),
    "pixart-alpha": (pixart, PixArtConfig(size=32, scale=1.0, layers=1, context=16, null_tokens=120)),
    "pixart-alpha 1024": (pixart, PixArtConfig(size=128, scale=2.0, layers=1, context=16, null_tokens=120, sizes=True)),
    "pixart-sigma": (pixart, PixArtConfig(size=32, scale=0.5, layers=1, context=16, null_tokens=300)),
    "pixart-sigma 2048": (
        pixart,
        PixArtConfig(
            size=256, scale=4.0, layers=1, context=16, null_tokens=300, compression=KVCompression(layers=(0,), factor=2)
        ),
    ),
    "hunyuan-dit": (hunyuan_dit, HUNYUAN),
    "hunyuan-dit 1.2": (hunyuan_dit, replace(HUNYUAN, styles=0)),
    "lumina-next": (lumina, LuminaConfig(width=144, layers=2, heads=2, kv_heads=1, context=16)),
    "u-vit": (uvit, UViTConfig(**UVIT, width=1152, heads=16, num_classes=10, smooth=False)),
    "u-vit continuous": (uvit, UViTConfig(**UVIT, width=1024, heads=16, num_classes=10)),
    "u-vit text": (uvit, UViTConfig(**UVIT, width=512, heads=8, context=16, smooth=False)),
    "u-vit pixels": (uvit, UViTConfig(size=8, layers=3)),
}
TABLES = {
    "dit": ("linear", 1e-4, 0.02),
    "pixart": ("linear", 1e-4, 0.02),
    "diffit": ("linear", 1e-4, 0.02),
    "hunyuan-dit": ("scaled_linear", 0.00085, 0.03),
    "hunyuan-dit 1.2": ("scaled_linear", 0.00085, 0.018),
    "u-vit": ("scaled_linear", 0.00085, 0.012),
    "u-vit text": ("scaled_linear", 0.00085, 0.012),
}


def network(name):
    of, config = NETS[name]
    net = scrambled(config.build(), scale=0.02)
    if name == "lumina-next":  # one matrix of queries for both of its attentions
        with torch.no_grad():
            for block in net.blocks:
                block.cross.load_state_dict(
                    {k: v for k, v in block.attn.state_dict().items() if "q" in k}, strict=False
                )
    return of, net


def foreign(name, at, prefix=""):
    """Write a file as its authors do, with what they also put there; return it."""
    of, net = network(name)
    held = write(of.links(net), net.state_dict())
    if name.startswith("pixart"):
        side = net.config.size // 2
        held["pos_embed"] = torch.rand(1, side * side, 1152).half().float()
    if name == "dit":
        held["pos_embed"] = held["pos_embed"] + 1e-4  # another machine's sinusoids
    save_file({prefix + k: v for k, v in held.items()}, at, {"format": "pt", "author": "somebody"})
    return at, net


def contract(name):
    kind = name.partition(" ")[0]
    table = TABLES.get(name) or TABLES.get(kind.partition("-")[0] if kind.startswith("pixart") else kind)
    schedule = None if table is None else sf.Table.from_betas(betas(*table, 1000))
    if kind == "lumina-next":
        return sf.Rectified(), sf.Flow(), sf.FlowTime(scale=-1.0, shift=1.0)
    if kind == "u-vit":
        continuous = name in ("u-vit continuous", "u-vit pixels")
        return (VPLinear() if continuous else schedule), sf.Eps(), sf.Plain(scale=999.0 if continuous else 1000.0)
    said = sf.V() if kind == "hunyuan-dit" else sf.Eps()
    return schedule, LearnedVariance(prediction=said), sf.Plain(scale=1000.0, shift=-1.0)


def conditions(net, rows=2):
    g = torch.Generator().manual_seed(0)
    cond = {}
    for key in net.cond:
        if key == "y":
            cond[key] = torch.tensor([1, 3])
        elif key.startswith("context") and not key.endswith("mask"):
            second = key.endswith("_2")
            config = net.config
            count = getattr(config, "tokens_2" if second else "tokens", 7)
            cond[key] = torch.randn(rows, count, config.context_2 if second else config.context, generator=g)
        elif key == "sizes":
            one = [512.0, 768.0, 512 / 768] if isinstance(net.config, PixArtConfig) else [512.0] * 4 + [0.0] * 2
            cond[key] = torch.tensor([one] * rows)
    return cond


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_it_is_told_by_its_tensors(name, tmp_path):
    file, net = foreign(name, tmp_path / "theirs.safetensors")
    pipe = sf.load(file)
    found = pipe.denoiser
    assert found.net.config == net.config
    assert (found.schedule, found.prediction, found.scaling) == contract(name)
    assert pipe.codec is None
    assert pipe.defaults.guidance > 1
    size = getattr(net.config, "size", 128)
    assert pipe.shape == (net.config.channels, size, size)
    cond = conditions(found.net)
    x = torch.randn(2, net.config.channels, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = sf.Preconditioned(net.eval(), *contract(name))(x, 0.4, **cond)
    assert distance(found(x, 0.4, **cond), expected) < 1e-5
    assert distance(found(x, 0.6, **cond), expected) > 1e-3


PREFIXES = [("dit", "module."), ("pixart-sigma", "model.diffusion_model."), ("hunyuan-dit", "diffusion_model.")]


@pytest.mark.parametrize(("name", "prefix"), [*((name, "") for name in NETS), *PREFIXES])
def test_it_goes_round_bit_for_bit(name, prefix, tmp_path):
    file, _ = foreign(name, tmp_path / "theirs.safetensors", prefix)
    pipe = sf.load(file)
    write_single(pipe, tmp_path / "two.safetensors")
    pipe.save(tmp_path / "ours")
    write_single(sf.load(tmp_path / "ours"), tmp_path / "three.safetensors")
    given = load_file(file)
    for other in ("two", "three"):
        made = load_file(tmp_path / f"{other}.safetensors")
        assert made.keys() == given.keys()
        assert all(torch.equal(made[k], given[k]) and made[k].dtype == given[k].dtype for k in given)
    again = sf.load(tmp_path / "three.safetensors")
    assert again.config() == pipe.config()


@pytest.mark.parametrize("name", ["dit", "pixart-sigma", "u-vit continuous"])
def test_it_is_inspected(name, tmp_path, capsys):
    file, net = foreign(name, tmp_path / "theirs.safetensors")
    assert main(["inspect", str(file), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kind"] == f"checkpoint, {name.removesuffix(' continuous')}"
    assert said["network"]["kind"] == type(net.config).__name__
    assert said["parts"] == {"network": sum(p.numel() for p in net.parameters())}
    assert said["contract"]["schedule"]["kind"] == type(contract(name)[0]).__name__
    assert said["carried along"] == ("nothing" if "u-vit" in name else "pos_embed")
    assert said["not used"] == "nothing"
    assert said["metadata"] == {"author": "somebody"}


def without(file, *names):
    held = load_file(file)
    save_file({k: v for k, v in held.items() if k not in names}, file)
    return file


def test_what_no_tensor_tells_is_asked_for_by_name(tmp_path):
    file = without(foreign("pixart-sigma", tmp_path / "p.safetensors")[0], "pos_embed")
    with pytest.raises(sf.InputError, match=r"does not tell the size of its pictures: give network=, such as"):
        sf.load(file)
    config = NETS["pixart-sigma"][1]
    pipe = sf.load(file, network=config)
    assert pipe.denoiser.net.config == config
    write_single(pipe, tmp_path / "two.safetensors")
    assert load_file(file).keys() == load_file(tmp_path / "two.safetensors").keys()
    file = without(foreign("dit", tmp_path / "d.safetensors")[0], "pos_embed")
    with pytest.raises(sf.CheckpointError, match=r"lacks 'pos_embed', which every dit has: give network="):
        sf.load(file)
    assert sf.load(file, network=NETS["dit"][1]).denoiser.net.config == NETS["dit"][1]
    with pytest.raises(sf.InputError, match=r"holds a dit: network= must be a DiTConfig"):
        sf.load(file, network=config)
    narrow = replace(NETS["dit"][1], width=48, heads=3)
    net = scrambled(narrow.build())
    save_file(write(dit.links(net), net.state_dict()), tmp_path / "n.safetensors")
    with pytest.raises(sf.InputError, match=r"a DiT of width 48 .* give network="):
        sf.load(tmp_path / "n.safetensors")
    assert sf.load(tmp_path / "n.safetensors", network=narrow).denoiser.net.config.heads == 3
    odd = UViTConfig(**UVIT, width=768, heads=12, num_classes=10)
    net = scrambled(odd.build())
    save_file(write(uvit.links(net), net.state_dict()), tmp_path / "u.safetensors")
    with pytest.raises(sf.InputError, match=r"does not tell the schedule of its U-ViT: give schedule="):
        sf.load(tmp_path / "u.safetensors")
    assert sf.load(tmp_path / "u.safetensors", schedule=VPLinear()).denoiser.scaling == sf.Plain(scale=999.0)
    with pytest.raises(sf.InputError, match="network= is for single files"):
        sf.load(tmp_path, network=config)
    save_file(load_file(tmp_path / "u.safetensors") | {"head.bias": torch.ones(3)}, tmp_path / "m.safetensors")
    with pytest.warns(UserWarning, match=r"not used: head\.bias"):
        pipe = sf.load(tmp_path / "m.safetensors", schedule=VPLinear())
    assert list(pipe.origin.tensors) == ["head.bias"]


def test_what_a_file_cannot_say_is_refused_or_named(tmp_path):
    file, _ = foreign("dit", tmp_path / "theirs.safetensors")
    pipe = sf.load(file)
    flow = sf.load(file, prediction=sf.Flow(), schedule=sf.Rectified())
    with pytest.raises(sf.InputError, match=r"single file of dit cannot say Rectified with LearnedVariance"):
        write_single(flow, tmp_path / "two.safetensors")
    tiny_folders.sd(vae=tiny_folders.vae(norm_num_groups=8)).save_pretrained(tmp_path / "sd")
    whole = replace(pipe, codec=sf.load_codec(tmp_path / "sd"))
    with pytest.warns(UserWarning, match=r"not written: the autoencoder \(this layout holds the network alone\)"):
        write_single(whole, tmp_path / "alone.safetensors")
    assert load_file(tmp_path / "alone.safetensors").keys() == load_file(file).keys()
    theirs = tiny_folders.dit()
    theirs.save_pretrained(tmp_path / "folder")
    with pytest.raises(sf.InputError, match=r"a DiT of width 32 is none of the paper's"):
        write_single(sf.load(tmp_path / "folder"), tmp_path / "three.safetensors")
    other = replace(NETS["dit"][1], mlp_eps=1e-5)
    with pytest.raises(sf.InputError, match=r"is read with mlp_eps=1e-06, and this network has 1e-05: write a folder"):
        write_single(sf.load(file, network=other), tmp_path / "four.safetensors")


@torch.no_grad()
def test_luminas_names_are_its_authors(tmp_path):
    """Those of the published conversion, and the same output as diffusers' class with the same weights."""
    theirs = scrambled(
        diffusers.LuminaNextDiT2DModel(
            sample_size=8,
            in_channels=4,
            hidden_size=144,
            num_layers=2,
            num_attention_heads=2,
            num_kv_heads=1,
            cross_attention_dim=16,
        ),
        scale=0.1,
    )
    given = theirs.state_dict()
    table = {
        "pad_token": "pad_token",
        "x_embedder": "patch_embedder.proj",
        "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
        "cap_embedder.0": "time_caption_embed.caption_embedder.0",
        "cap_embedder.1": "time_caption_embed.caption_embedder.1",
        "final_layer.adaLN_modulation.1": "norm_out.linear_1",
        "final_layer.linear": "norm_out.linear_2",
    }
    inner = {
        "attention.gate": "gate",
        "adaLN_modulation.1": "norm1.linear",
        "attention.wq": "attn1.to_q",
        "attention.wk": "attn1.to_k",
        "attention.wv": "attn1.to_v",
        "attention.wk_y": "attn2.to_k",
        "attention.wv_y": "attn2.to_v",
        "attention.wo": "attn2.to_out.0",
        "attention.q_norm": "attn1.norm_q",
        "attention.k_norm": "attn1.norm_k",
        "attention.ky_norm": "attn2.norm_k",
        "attention_norm1": "norm1.norm",
        "attention_norm2": "norm2",
        "attention_y_norm": "norm1_context",
        "ffn_norm1": "ffn_norm1",
        "ffn_norm2": "ffn_norm2",
        "feed_forward.w1": "feed_forward.linear_1",
        "feed_forward.w2": "feed_forward.linear_2",
        "feed_forward.w3": "feed_forward.linear_3",
    }
    for i in range(2):
        table |= {f"layers.{i}.{a}": f"layers.{i}.{b}" for a, b in inner.items()}
        for end in ("to_q.weight", "norm_q.weight", "norm_q.bias"):
            given[f"layers.{i}.attn2.{end}"].copy_(given[f"layers.{i}.attn1.{end}"])
    ends = ("", ".weight", ".bias")
    file = {a + end: given[b + end].clone() for a, b in table.items() for end in ends if b + end in given}
    assert len(file) == len(given) - 2 * 3  # the queries and their norms stand there once
    save_file(file, tmp_path / "theirs.safetensors")
    net = sf.load(tmp_path / "theirs.safetensors").denoiser.net
    ours = folder_lumina.LAYOUT.config(dict(theirs.config)).build()
    tensors, missing, unused = read(folder_lumina.LAYOUT.links(ours), given)
    assert (missing, unused) == ([], [])
    for name, value in tensors.items():
        assert torch.equal(net.state_dict()[name], value), name
    assert distance(net.out.weight, ours.out.weight) > 0
    with torch.no_grad():
        net.blocks[1].cross.q.weight.add_(1)
    with pytest.raises(sf.InputError, match=r"cross\.q\.weight differ: layers\.1\.attention\.wq\.weight is one"):
        write(lumina.links(net), net.state_dict())


def test_published_shapes_tell_published_lumina():
    from sfumato.pipeline.folder import empty

    net = empty(lumina_next(), torch.bfloat16)
    shapes = {k: tuple(t.shape) for k, t in write(lumina.links(net), net.state_dict()).items()}
    assert lumina.config(shapes) == lumina_next()
    assert shapes["layers.23.attention.wk_y.weight"] == (576, 2048)
    with pytest.raises(sf.InputError, match="feed-forward layers 6145 wide"):
        lumina.config(shapes | {"layers.0.feed_forward.w1.weight": (6145, 2304)})
