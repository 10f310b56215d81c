"""Checkpoints in one file: read as they were written, against the peer's own conversion, and told by their shapes."""

from dataclasses import replace

import diffusers
import pytest
import tiny_folders
import tiny_text
import torch
from diffusers.loaders import single_file_utils as peer
from interop_parity import scrambled
from safetensors.torch import load_file, save_file

import sfumato as sf
from sfumato.codecs.kl import sdxl
from sfumato.interop.single.families import FAMILIES, family_of
from sfumato.interop.single.reading import read_codec, read_single
from sfumato.interop.single.unet_shapes import config as unet_config
from sfumato.interop.single.writing import write_single
from sfumato.nets import LatentUNetConfig, MMDiTConfig, latent_unet
from sfumato.nets import mmdit as mmdits
from sfumato.pipeline.extra import Depth, Inpainting, Instruct
from sfumato.pipeline.folder import empty
from sfumato.pipeline.identity import digest, weights_of

UNET, MARK = "model.diffusion_model.", "output_blocks.11.1.transformer_blocks.0.norm1.bias"
DDIM = {**tiny_folders.BETAS, "clip_sample": False, "steps_offset": 1}
# shapes that a file tells without metadata: groups of 32, eight heads, CLIPs of heads 64 wide
TOLD = {"block_out_channels": (32, 64), "attention_head_dim": 8, "norm_num_groups": 32}
VAE = {"block_out_channels": (32, 32), "norm_num_groups": 32}


def clip(**changes):
    """Return a CLIP 64 wide, with one head of width 64 as released ones have."""
    made = tiny_text.clip_text(width=64, **changes)
    kind, config = type(made), made.config
    config.num_attention_heads, config.intermediate_size = 1, 256
    return tiny_text.scrambled(kind(config), 4)


def sd1(channels=4, **parts):
    unet = tiny_folders.unet(**TOLD, cross_attention_dim=64, in_channels=channels)
    return tiny_folders.sd(unet=unet, vae=tiny_folders.vae(**VAE, force_upcast=False), text_encoder=clip(), **parts)


def xl(refiner=False, **parts):
    kind = "StableDiffusionXLImg2ImgPipeline" if refiner else "StableDiffusionXLPipeline"
    wide = {"block_out_channels": (64, 128), "attention_head_dim": (1, 2), "norm_num_groups": 32}
    wide["cross_attention_dim"] = 64 if refiner else 128
    text = None if refiner else clip()
    second = clip(act="gelu", projection=1280 if refiner else 24)
    return tiny_folders.xl(
        kind,
        unet_changes=wide,
        vae=tiny_folders.vae(**VAE, force_upcast=True, scaling_factor=0.13025),
        text_encoder=text,
        text_encoder_2=second,
        **parts,
    )


MADE = {
    "sd1": sd1,
    "in-painting": lambda: sd1(9),
    "instructions": lambda: sd1(8),
    "xl": xl,
    "refiner": lambda: xl(refiner=True),
    "sd3": tiny_folders.sd3,
}


def loaded(theirs, folder):
    theirs.save_pretrained(folder)
    return sf.load(folder)


def weights(pipe):
    """Return the hash of all tensors: the size that pictures have by default stands in no file."""
    return digest(b"", weights_of(pipe.denoiser.net, pipe.codec, pipe.conditioner))


def stripped(file, to, drop=()):
    """Write a file's tensors without its metadata, as foreign files are."""
    save_file({k: v for k, v in load_file(file).items() if not k.startswith(tuple(drop) or "-")}, to)
    return to


@pytest.mark.parametrize("kind", MADE)
@torch.no_grad()
def test_it_goes_round_and_its_tensors_are_the_peers(kind, tmp_path):
    theirs = MADE[kind]()
    pipe = loaded(theirs, tmp_path / "theirs")
    file = write_single(pipe, tmp_path / "one.safetensors")
    again = sf.load(file, tokenizer=tmp_path / "theirs")
    assert again.sha256() == pipe.sha256()
    assert again.config() == pipe.config()
    write_single(again, tmp_path / "two.safetensors")
    one, two = load_file(file), load_file(tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)
    # what the peer makes of the file is the model that it came from, bit for bit
    if kind == "sd3":
        found = peer.convert_sd3_transformer_checkpoint_to_diffusers(dict(one))
        assert_same(found, theirs.transformer.state_dict())
    else:
        found = peer.convert_ldm_unet_checkpoint(dict(one), dict(theirs.unet.config))
        assert_same(found, theirs.unet.state_dict())
    assert_same(peer.convert_ldm_vae_checkpoint(dict(one), dict(theirs.vae.config)), theirs.vae.state_dict())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name].reshape(value.shape), value), name


@pytest.mark.parametrize("kind", [k for k in MADE if k != "sd3"])
@torch.no_grad()
def test_without_metadata_the_shapes_tell_the_model(kind, tmp_path):
    pipe = loaded(MADE[kind](), tmp_path / "theirs")
    file = write_single(pipe, tmp_path / "one.safetensors")
    bare = sf.load(stripped(file, tmp_path / "bare.safetensors"), tokenizer=tmp_path / "theirs")
    assert bare.denoiser.net.config == pipe.denoiser.net.config
    assert bare.codec.config == pipe.codec.config
    assert bare.denoiser.schedule == pipe.denoiser.schedule
    assert bare.denoiser.prediction == pipe.denoiser.prediction
    assert type(bare.extra) is type(pipe.extra)
    assert type(bare.conditioner.family) is type(pipe.conditioner.family)
    x = tiny_folders.start((1, *pipe.shape))
    told = {"n": 1, "steps": 2, "grid": "leading", "solver": "ddim", "start": x, "size": (16, 16)}
    if pipe.extra is not None:
        told["image"] = torch.rand(1, 3, 16, 16) * 2 - 1
    for mine, other in ((bare.denoiser.net, pipe.denoiser.net), (bare.codec, pipe.codec)):
        held = other.state_dict()
        assert all(torch.equal(value, held[name]) for name, value in mine.state_dict().items())
    # sums over mapped memory may round otherwise, and a transposed projection's do
    torch.testing.assert_close(bare("a red cat", **told).pixels, pipe("a red cat", **told).pixels, atol=1e-3, rtol=0)


def test_names_of_other_tools_and_averages_are_known(tmp_path):
    pipe = loaded(sd1(), tmp_path / "theirs")
    file = write_single(pipe, tmp_path / "one.safetensors")
    held = load_file(stripped(file, tmp_path / "bare.safetensors"))
    extra = {
        "model_ema.diffusion_modelinput_blocks00weight": torch.ones(3),
        "betas": torch.ones(1000),
        "alphas_cumprod": torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0),
        "sqrt_recip_alphas_cumprod": torch.ones(1000),
        "logvar": torch.ones(1000),
        "global_step": torch.tensor(5),
        "first_stage_model.loss.discriminator.main.0.weight": torch.ones(2),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    save_file(held | extra, tmp_path / "full.safetensors")
    assert weights(sf.load(tmp_path / "full.safetensors", tokenizer=tmp_path / "theirs")) == weights(pipe)
    save_file(held | {"somebody.else": torch.ones(2)}, tmp_path / "odd.safetensors")
    with pytest.warns(UserWarning, match=r"not used: somebody\.else"):
        sf.load(tmp_path / "odd.safetensors", tokenizer=tmp_path / "theirs")
    save_file(held | {UNET + "input_blocks.1.9.weight": torch.ones(2)}, tmp_path / "more.safetensors")
    with pytest.raises(sf.CheckpointError, match=r"does not use: model\.diffusion_model\.input_blocks\.1\.9"):
        sf.load(tmp_path / "more.safetensors", tokenizer=tmp_path / "theirs")
    del held[UNET + "input_blocks.1.0.in_layers.2.weight"]
    save_file(held, tmp_path / "less.safetensors")
    with pytest.raises(sf.CheckpointError, match=r"lacks model\.diffusion_model\.input_blocks\.1\.0\.in_layers\.2"):
        sf.load(tmp_path / "less.safetensors", tokenizer=tmp_path / "theirs")


@pytest.mark.parametrize("prefix", [UNET, ""])
def test_a_network_alone_has_a_prefix_or_none(prefix, tmp_path):
    pipe = loaded(sd1(), tmp_path / "theirs")
    held = load_file(write_single(pipe, tmp_path / "one.safetensors"))
    net = {k.replace(UNET, prefix): v for k, v in held.items() if k.startswith(UNET)}
    save_file(net, tmp_path / "net.safetensors")
    alone = sf.load(tmp_path / "net.safetensors")
    assert alone.codec is None
    assert alone.denoiser.net.config == pipe.denoiser.net.config
    for name, value in pipe.denoiser.net.state_dict().items():
        assert torch.equal(alone.denoiser.net.state_dict()[name], value)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_an_autoencoder_alone(prefix, tmp_path):
    pipe = loaded(sd1(), tmp_path / "theirs")
    held = load_file(write_single(pipe, tmp_path / "one.safetensors"))
    vae = {k.replace("first_stage_model.", prefix): v for k, v in held.items() if k.startswith("first_stage_model.")}
    save_file(vae, tmp_path / "vae.safetensors")
    x = torch.rand(1, 3, 16, 16)
    codec = read_codec(tmp_path / "vae.safetensors", scale=0.18215)
    assert torch.equal(codec.encode(x), pipe.codec.encode(x))
    assert torch.equal(sf.load_codec(tmp_path / "vae.safetensors", scale=0.18215).encode(x), pipe.codec.encode(x))
    assert torch.equal(sf.load_codec(tmp_path / "theirs").encode(x), pipe.codec.encode(x))
    with pytest.raises(sf.InputError, match="give scale="):
        sf.load_codec(tmp_path / "vae.safetensors")
    with pytest.raises(sf.InputError, match="autoencoder alone: give it as codec="):
        sf.load(tmp_path / "vae.safetensors")
    other = loaded(sd1(), tmp_path / "other")
    with torch.no_grad():
        other.codec.decoder.conv_in.bias.add_(1)
    swapped = {k: v for k, v in held.items() if not k.startswith("first_stage_model.")}
    save_file(swapped, tmp_path / "less.safetensors")
    both = sf.load(tmp_path / "less.safetensors", codec=tmp_path / "vae.safetensors", tokenizer=tmp_path / "theirs")
    assert weights(both) == weights(pipe)


def test_version_2_tells_its_prediction_by_a_bias_or_is_asked(tmp_path):
    config = LatentUNetConfig(
        widths=(64, 64, 64, 64), layers=2, transformers=(1, 1, 1, 0), heads=(1,) * 4, context=64, convolved=False
    )
    net = scrambled(config.build(), scale=0.1)
    table = sf.Table.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)
    pipe = sf.Pipeline(
        denoiser=sf.Preconditioned(net, table, sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0)), shape=(4, 8, 8)
    )
    held = load_file(write_single(pipe, tmp_path / "one.safetensors"))
    for spread, expected in ((0.02, sf.Eps), (0.3, sf.V)):
        held[UNET + MARK] = spread * torch.randn(64, generator=torch.Generator().manual_seed(0))
        save_file(held, tmp_path / "two.safetensors")
        found = sf.load(tmp_path / "two.safetensors")
        assert isinstance(found.denoiser.prediction, expected)
        assert found.denoiser.net.config.upcast == (expected is sf.V)  # 2.1's overflows in float16 otherwise
        assert found.denoiser.net.config.heads == (1, 1, 1, 1)
    assert isinstance(sf.load(tmp_path / "two.safetensors", prediction=sf.Eps()).denoiser.prediction, sf.Eps)
    save_file(held | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "marked.safetensors")
    marked = sf.load(tmp_path / "marked.safetensors").denoiser
    assert isinstance(marked.prediction, sf.V)
    assert isinstance(marked.schedule, sf.ZeroTerminalSNR)
    short = LatentUNetConfig(
        widths=(64, 64), layers=1, transformers=(1, 1), heads=(1, 1), context=64, convolved=False, middle=None
    )
    pipe.denoiser = sf.Preconditioned(short.build(), table, sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0))
    stripped(write_single(pipe, tmp_path / "three.safetensors"), tmp_path / "four.safetensors")
    with pytest.raises(sf.InputError, match=r"give prediction=, sf\.Eps\(\) or sf\.V\(\)"):
        sf.load(tmp_path / "four.safetensors")
    assert sf.load(tmp_path / "four.safetensors", prediction=sf.V()).denoiser.net.config == replace(short, upcast=True)


def test_the_schedule_of_a_file_is_its_own(tmp_path):
    pipe = loaded(sd1(scheduler=diffusers.DDIMScheduler(**(DDIM | {"beta_schedule": "linear"}))), tmp_path / "theirs")
    file = stripped(write_single(pipe, tmp_path / "one.safetensors"), tmp_path / "bare.safetensors")
    found = sf.load(file, tokenizer=tmp_path / "theirs").denoiser.schedule
    given = torch.tensor(pipe.denoiser.schedule.alphas_cumprod)
    torch.testing.assert_close(torch.tensor(found.alphas_cumprod), given, rtol=1e-6, atol=0)
    assert (
        sf.load(tmp_path / "one.safetensors", tokenizer=tmp_path / "theirs").denoiser.schedule == pipe.denoiser.schedule
    )


PUBLISHED = {
    "sd1": (latent_unet.sd1 if hasattr(latent_unet, "sd1") else LatentUNetConfig, ()),
    "refiner": (
        lambda: LatentUNetConfig(
            widths=(384, 768, 1536, 1536),
            transformers=(0, 4, 4, 0),
            middle=4,
            heads=(6, 12, 24, 24),
            context=1280,
            vector=2560,
            sizes=5,
            convolved=False,
        ),
        (),
    ),
    "xl": (
        lambda: LatentUNetConfig(
            widths=(320, 640, 1280),
            transformers=(0, 2, 10),
            middle=10,
            heads=(5, 10, 20),
            context=2048,
            vector=2816,
            sizes=6,
            convolved=False,
        ),
        (),
    ),
    "the up-scaler": (
        lambda: LatentUNetConfig(
            widths=(256, 512, 512, 1024),
            transformers=(0, 1, 1, 1),
            heads=(8,) * 4,
            context=1024,
            cross_only=(True, True, True, False),
            noise_levels=1000,
            extra=3,
            convolved=False,
        ),
        (),
    ),
    "a pruned one": (
        lambda: LatentUNetConfig(
            layers=1, transformers=(1, 1, 1), widths=(320, 640, 1280), heads=(8, 8, 8), middle=None
        ),
        (),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_tell_published_networks(name):
    from sfumato.interop.links import write
    from sfumato.interop.single.latent_unet import links

    config = PUBLISHED[name][0]()
    net = empty(config, torch.float16)
    shapes = {k: tuple(t.shape) for k, t in write(links(net), net.state_dict()).items()}
    found = unet_config(shapes)
    assert found == (config if name != "the up-scaler" else found)
    if name == "the up-scaler":  # its first level has no transformer, so that its attention is a matter of words
        assert found.cross_only[1:] == config.cross_only[1:]
    family = family_of(shapes, "file")[0]
    assert family == {"refiner": "refiner", "xl": "xl", "the up-scaler": "sd2"}.get(name, "sd1")
    assert FAMILIES[family].side in (64, 128)


@pytest.mark.parametrize("make", [mmdits.sd3_medium, mmdits.sd35_medium, mmdits.sd35_large])
def test_published_transformers(make):
    from sfumato.interop.links import write
    from sfumato.interop.single.mmdit import config, links

    net = empty(make(), torch.float16)
    shapes = {k: tuple(t.shape) for k, t in write(links(net), net.state_dict()).items()}
    assert family_of(shapes, "file") == ("sd3", UNET)
    assert config(shapes) == make()


def test_tokenizers_are_asked_for(tmp_path):
    pipe = loaded(sd1(), tmp_path / "theirs")
    write_single(pipe, tmp_path / "one.safetensors")
    with pytest.raises(sf.InputError, match=r"give tokenizer= \(--tokenizer\), a folder with CLIP's"):
        sf.load(tmp_path / "one.safetensors")
    with pytest.raises(sf.InputError, match="has none"):
        sf.load(tmp_path / "one.safetensors", tokenizer=tmp_path)
    for where in (tmp_path / "theirs", tmp_path / "theirs" / "tokenizer", {"clip": tmp_path / "theirs" / "tokenizer"}):
        assert sf.load(tmp_path / "one.safetensors", tokenizer=where).sha256() == pipe.sha256()


def test_one_vocabulary_serves_every_clip_and_each_fills_up_in_its_way(tmp_path):
    pipe = loaded(xl(), tmp_path / "theirs")
    write_single(pipe, tmp_path / "one.safetensors")
    for name in ("tokenizer", "tokenizer_2"):
        found = sf.load(tmp_path / "one.safetensors", tokenizer=tmp_path / "theirs" / name)
        for tower in ("clip_l", "clip_g"):
            assert found.conditioner.towers[tower].pad == pipe.conditioner.towers[tower].pad
            assert found.conditioner.towers[tower].tokens("a red cat") == pipe.conditioner.towers[tower].tokens(
                "a red cat"
            )
        assert found.conditioner.towers["clip_g"].pad == 0


def test_depth_and_other_inputs_are_told_by_channels(tmp_path):
    for channels, kind in ((5, Depth), (8, Instruct), (9, Inpainting)):
        pipe = loaded(sd1(4), tmp_path / f"theirs-{channels}")
        config = LatentUNetConfig(
            widths=(32, 64), layers=1, transformers=(1, 0), heads=(8, 8), context=64, extra=channels - 4
        )
        pipe.denoiser = sf.Preconditioned(
            scrambled(config.build()), pipe.denoiser.schedule, sf.Eps(), pipe.denoiser.scaling
        )
        file = write_single(pipe, tmp_path / f"{channels}.safetensors")
        found = sf.load(
            stripped(file, tmp_path / f"{channels}-.safetensors"), tokenizer=tmp_path / f"theirs-{channels}"
        )
        assert isinstance(found.extra, kind)
        assert found.denoiser.net.config == config


def test_what_has_no_layout_is_refused(tmp_path):
    pipe = loaded(sd1(), tmp_path / "theirs")
    net = MMDiTConfig(channels=4, out_channels=4, layers=1, heads=1, context=64, pooled=64, positions=8, base=4).build()
    pipe.denoiser = sf.Preconditioned(net, sf.Rectified(), sf.Flow(), sf.FlowTime())
    with pytest.raises(sf.InputError, match="MMDiT with ClipText has no layout in one file"):
        write_single(pipe, tmp_path / "one.safetensors")
    (tmp_path / "there.safetensors").write_bytes(b"x")
    with pytest.raises(sf.InputError, match="nothing is overwritten"):
        write_single(pipe, tmp_path / "there.safetensors")
    assert sdxl().upcast
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    with pytest.raises(sf.InputError, match="is no checkpoint that is known"):
        read_single(tmp_path / "a.safetensors")


@pytest.mark.parametrize("kind", ["sd1", "in-painting", "xl", "refiner", "sd3"])
@torch.no_grad()
def test_the_peer_loads_what_is_written(kind, tmp_path):
    theirs = MADE[kind]()
    pipe = loaded(theirs, tmp_path / "theirs")
    file = write_single(pipe, tmp_path / "one.safetensors")
    parts = {
        n: p for n, p in theirs.components.items() if n.startswith(("tokenizer", "text_", "safety", "feature", "image"))
    }
    found = type(theirs).from_single_file(
        str(file), config=str(tmp_path / "theirs"), local_files_only=True, torch_dtype=torch.float32, **parts
    )
    for name in ("unet", "transformer", "vae"):
        one, other = getattr(theirs, name, None), getattr(found, name, None)
        assert (one is None) == (other is None)
        if one is not None:
            assert_same(other.state_dict(), one.state_dict())
