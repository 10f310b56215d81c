"""A file of others is written back as it was, tensor by tensor, whatever of it nobody uses; else it is named."""

import json
from pathlib import Path

import diffusers
import pytest
import tiny_folders
import torch
from diffusers.loaders import single_file_utils as peer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_interop_single import MADE, UNET, clip, loaded
from test_interop_single_text import open_clip_file

import sfumato as sf
from sfumato.cli import main
from sfumato.conditioning import ClipText
from sfumato.interop.diffusers.writing import write_pipeline
from sfumato.interop.single.writing import write_single
from sfumato.pipeline.origin import Origin, read_origin, summed

BARS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
BUFFERS = {
    "model_ema.decay": torch.tensor(0.9999),
    "model_ema.diffusion_modelinput_blocks00weight": torch.randn(3),
    "betas": torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
    "alphas_cumprod": BARS,
    "sqrt_alphas_cumprod": BARS.sqrt(),
    "posterior_variance": torch.rand(1000),
    "logvar": torch.zeros(1000),
    "global_step": torch.tensor(470000),
    "first_stage_model.loss.logvar": torch.zeros(()),
}
MORE = {
    "sd1": BUFFERS | {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None]},
    "in-painting": BUFFERS,
    "xl": {
        "denoiser.sigmas": torch.rand(1000),
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6),
    },
    "refiner": {"conditioner.embedders.0.model.logit_scale": torch.tensor(4.6)},
    "sd3": {
        "text_encoders.clip_l.logit_scale": torch.tensor(4.6),
        "text_encoders.clip_g.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight": None,  # the table that is tied, twice
    },
}


def sd2(folder):
    """Return the tensors of a version 2 whose OpenCLIP has all of its 24 layers, and more that nobody reads."""
    changes = {"attention_head_dim": (1, 2), "use_linear_projection": True, "cross_attention_dim": 64}
    unet = tiny_folders.unet(block_out_channels=(64, 128), norm_num_groups=32, **changes)
    text = clip(act="gelu")
    vae = tiny_folders.vae(block_out_channels=(32, 32), norm_num_groups=32, force_upcast=False)
    pipe = loaded(tiny_folders.sd(unet=unet, vae=vae, text_encoder=text), folder)
    held = load_file(write_single(pipe, folder / "one.safetensors"))
    held = {name: t for name, t in held.items() if not name.startswith("cond_stage_model.")}
    marks = {"v_pred": torch.zeros(0), "cond_stage_model.model.attn_mask": torch.zeros(77, 77)}
    return held | open_clip_file("cond_stage_model.model.", layers=24, width=64) | BUFFERS | marks


def foreign(kind, folder):
    """Write a file as others write them, and return it."""
    if kind == "sd2":
        held = sd2(folder / "theirs")
    else:
        held = load_file(write_single(loaded(MADE[kind](), folder / "theirs"), folder / "one.safetensors"))
        held |= MORE[kind]
        for name, tensor in held.items():
            if tensor is None:
                held[name] = held[name.replace("encoder.embed_tokens", "shared")].clone()
    said = {"format": "pt", "modelspec.title": "Tiny", "license": "mine"}
    if kind == "sd3":  # whose tiny heads no shape tells
        with safe_open(folder / "one.safetensors", "pt") as one:
            said |= {"sfumato": one.metadata()["sfumato"]}
    save_file(held, folder / "foreign.safetensors", said)
    return folder / "foreign.safetensors"


def opened(file, folder):
    return sf.load(file, tokenizer=folder / "theirs")


def assert_same_file(one, other):
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].shape == b[name].shape, name
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind", ["sd1", "sd2", "in-painting", "xl", "refiner", "sd3"])
def test_nothing_is_lost_on_the_way_and_back(kind, tmp_path):
    file = foreign(kind, tmp_path)
    pipe = opened(file, tmp_path)
    write_single(pipe, tmp_path / "two.safetensors")
    assert_same_file(file, tmp_path / "two.safetensors")
    write_single(opened(tmp_path / "two.safetensors", tmp_path), tmp_path / "three.safetensors")
    assert_same_file(file, tmp_path / "three.safetensors")
    pipe.save(tmp_path / "ours")
    again = sf.load(tmp_path / "ours")
    assert again.sha256() == pipe.sha256()
    write_single(again, tmp_path / "four.safetensors")
    assert_same_file(file, tmp_path / "four.safetensors")
    with safe_open(tmp_path / "four.safetensors", "pt") as made:
        assert made.metadata()["modelspec.title"] == "Tiny"
        assert made.metadata()["license"] == "mine"


def test_the_last_layer_of_version_2_is_read_past_as_theirs_is(tmp_path):
    file = foreign("sd2", tmp_path)
    pipe = opened(file, tmp_path)
    assert pipe.conditioner.family == ClipText(skip=1)
    assert pipe.conditioner.towers["clip"].model.config.num_hidden_layers == 24
    with pytest.warns(UserWarning, match="not written: ") as said:
        write_pipeline(pipe, tmp_path / "folder")
    named = str(said[-1].message)
    for lost in (
        "model_ema.decay",
        "betas",
        "global_step",
        "clip.encoder.layers.23.* (16)",
        "clip.text_projection.weight",
    ):
        assert lost in named, named
    text = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "folder", safety_checker=None).text_encoder
    assert text.config.num_hidden_layers == 23
    expected = peer.convert_open_clip_checkpoint(text, load_file(file), prefix="cond_stage_model.model.")
    state = {"text_model." + k.removeprefix("text_model."): v for k, v in text.state_dict().items()}
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    one, other = (p.conditioner(["a red cat"]).cond["context"] for p in (pipe, sf.load(tmp_path / "folder")))
    assert torch.equal(one, other)


@pytest.mark.parametrize("prefix", [UNET, "diffusion_model.", "module.", ""])
def test_names_keep_what_stands_before_them(prefix, tmp_path):
    held = load_file(write_single(loaded(MADE["sd1"](), tmp_path / "theirs"), tmp_path / "one.safetensors"))
    names = {k: k.replace(UNET, prefix).replace("first_stage_model.", "vae.") for k in held}
    kept = {names[k]: v for k, v in held.items() if not k.startswith("cond_stage_model.")}
    save_file(kept, tmp_path / "foreign.safetensors")
    write_single(sf.load(tmp_path / "foreign.safetensors"), tmp_path / "two.safetensors")
    assert_same_file(tmp_path / "foreign.safetensors", tmp_path / "two.safetensors")


def test_parts_keep_their_own_dtypes(tmp_path):
    held = load_file(write_single(loaded(MADE["sd1"](), tmp_path / "theirs"), tmp_path / "one.safetensors"))
    kinds = {UNET: torch.float16, "first_stage_model.": torch.float32, "cond_stage_model.": torch.bfloat16}
    mixed = {k: v.to(next(t for p, t in kinds.items() if k.startswith(p))) for k, v in held.items()}
    save_file(mixed, tmp_path / "foreign.safetensors")
    pipe = opened(tmp_path / "foreign.safetensors", tmp_path)
    pipe.save(tmp_path / "ours")
    write_single(sf.load(tmp_path / "ours"), tmp_path / "two.safetensors")
    assert_same_file(tmp_path / "foreign.safetensors", tmp_path / "two.safetensors")


def resident(file):
    """Return how many bytes of a file are in memory where this process has it mapped."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) << 10
    return total


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux counts the pages of a mapping")
def test_what_is_carried_is_mapped_and_not_in_memory(tmp_path):
    held = load_file(foreign("sd1", tmp_path))
    file, average = tmp_path / "large.safetensors", 64 << 20
    save_file({**held, "model_ema.large": torch.ones(average // 4)}, file)
    pipe = opened(file, tmp_path)
    assert resident(file) < average / 4  # neighbours of what was looked at come along
    assert float(pipe.origin.tensors["model_ema.large"].sum()) == average // 4
    assert resident(file) > average  # so this is how it would show


def cast_weights(pipe):
    parts = (pipe.denoiser.net, pipe.codec, pipe.conditioner.towers["clip"].model)
    return [p for part in parts for p in part.parameters()]


@pytest.mark.parametrize("layout", ["single", "folder", "ours"])
def test_weights_are_cast_as_they_are_read(layout, tmp_path):
    file = foreign("sd1", tmp_path)
    pipe = opened(file, tmp_path)
    if layout != "single":
        file = pipe.save(tmp_path / "ours") if layout == "ours" else tmp_path / "theirs"
    more = {"tokenizer": tmp_path / "theirs"} if layout == "single" else {}
    half = sf.load(file, dtype=torch.float16, **more)
    for one, other in zip(cast_weights(pipe), cast_weights(half), strict=True):
        assert other.dtype == torch.float16
        assert torch.equal(one.half(), other)
    if layout == "single":
        assert half.origin.tensors["betas"].dtype == torch.float32  # carried as it is


def test_buffers_of_another_contract_are_left_out_by_name(tmp_path):
    file = foreign("sd1", tmp_path)
    one = sf.load(file, tokenizer=tmp_path / "theirs", prediction=sf.V())
    write_single(one, tmp_path / "v.safetensors")  # a marker more says it, and the table is as it was
    assert load_file(tmp_path / "v.safetensors").keys() == load_file(file).keys() | {"v_pred"}
    bare = load_file(tmp_path / "v.safetensors")
    save_file(bare, tmp_path / "bare.safetensors")
    assert isinstance(opened(tmp_path / "bare.safetensors", tmp_path).denoiser.prediction, sf.V)
    zero = sf.ZeroTerminalSNR(base=one.denoiser.schedule)
    other = sf.load(tmp_path / "bare.safetensors", tokenizer=tmp_path / "theirs", prediction=sf.V(), schedule=zero)
    write_single(other, tmp_path / "zero.safetensors")
    assert load_file(tmp_path / "zero.safetensors").keys() == bare.keys() | {"ztsnr"}
    linear = sf.Table.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    eps = sf.load(tmp_path / "zero.safetensors", tokenizer=tmp_path / "theirs", prediction=sf.Eps(), schedule=linear)
    with pytest.warns(UserWarning, match=r"not written: betas, posterior_variance, sqrt_alphas_cumprod, v_pred, ztsnr"):
        write_single(eps, tmp_path / "eps.safetensors")
    save_file(load_file(tmp_path / "eps.safetensors"), tmp_path / "plain.safetensors")
    found = opened(tmp_path / "plain.safetensors", tmp_path).denoiser
    assert isinstance(found.prediction, sf.Eps)
    torch.testing.assert_close(
        torch.tensor(found.schedule.alphas_cumprod), torch.tensor(linear.alphas_cumprod), rtol=1e-6, atol=0
    )


def test_what_is_kept_in_a_folder_is_checked(tmp_path):
    Origin(network="a.", codec="b.", tensors={"x": torch.ones(2)}, metadata={"k": "v"}).save(tmp_path)
    found = read_origin(tmp_path)
    assert (found.network, found.codec, found.metadata) == ("a.", "b.", {"k": "v"})
    assert torch.equal(found.tensors["x"], torch.ones(2))
    for text in ('{"network": 1, "codec": "", "metadata": {}}', '{"network": "", "codec": ""}', "[]", '{"x": "y"}'):
        (tmp_path / "origin.json").write_text(text)
        with pytest.raises(sf.CheckpointError, match="origin"):
            read_origin(tmp_path)
    assert read_origin(tmp_path / "nowhere") is None


def test_names_are_summed_up():
    assert summed(["b", "a.x.1", "a.x.2", "a.x.3", "c.d"]) == "a.x.1, a.x.2, a.x.3, b, c.d"
    assert summed(["a.x.1.k", "a.x.1.l", "a.x.1.m.n", "c.d", "c.e"]) == "a.x.1.* (3), c.d, c.e"
    assert summed(["a.x", "a.y.z", "a.y"]) == "a.* (3)"
    assert summed([]) == ""
    assert summed(map(str, range(10)), 8) == "0, 1, 2, 3, 4, 5, 6, 7 and 2 more"


def test_numbers_that_are_no_weights_may_come_first(tmp_path, capsys):
    """Files of the first releases hold the places of the text encoder in whole numbers, which stand first in a file."""
    tiny_folders.sd().save_pretrained(tmp_path / "folder")
    write_single(sf.load(tmp_path / "folder"), tmp_path / "one.safetensors")
    name = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    tensors = load_file(tmp_path / "one.safetensors") | {name: torch.arange(77)[None]}
    save_file(tensors, tmp_path / "released.safetensors")
    assert main(["inspect", str(tmp_path / "released.safetensors"), "--json"]) == 0
    told, plain = json.loads(capsys.readouterr().out), main(["inspect", str(tmp_path / "one.safetensors"), "--json"])
    assert plain == 0
    assert told["parts"] == json.loads(capsys.readouterr().out)["parts"]
