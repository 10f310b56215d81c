"""IP-Adapters against diffusers' load_ip_adapter: tokens, the steered U-Net, whole pictures; files both ways."""

import diffusers
import numpy as np
import pytest
import tiny_folders
import tiny_text
import torch
import transformers
from interop_parity import distance, halved, idle, scrambled
from PIL import Image
from safetensors.torch import load_file, save_file
from test_interop_control_pictures import TOLD, _controlnet, _distance, _ours, _picture

import sfumato as sf
from sfumato import InputError
from sfumato.conditioning.vision import read_image_tower
from sfumato.control.ip_adapter import ImagePrompt, LinearTokens, reads_text
from sfumato.control.lora import merged
from sfumato.core import CheckpointError
from sfumato.interop.ip_adapter import read_ip_adapter, write_ip_adapter
from sfumato.nets.hooked import Hooked
from sfumato.nets.hooks import sites
from sfumato.pipeline.steering import ByControlNet, ByImage

CONTEXT, VISION, EMBEDDING = tiny_text.WIDTH, 24, 20


def _draw(*shape, seed=0):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 13 * sum(shape)))


def _encoder():
    config = transformers.CLIPVisionConfig(
        hidden_size=VISION,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
        projection_dim=EMBEDDING,
    )
    return scrambled(transformers.CLIPVisionModelWithProjection(config), 4)


def _projection(kind):
    """Return the tensors of a projection, named and shaped as in published files."""
    if kind == "base":
        shapes = {"proj.weight": (4 * CONTEXT, EMBEDDING), "proj.bias": (4 * CONTEXT,), "norm": CONTEXT}
    elif kind == "full":
        shapes = {"proj.0.weight": (VISION, VISION), "proj.0.bias": (VISION,)}
        shapes |= {"proj.2.weight": (CONTEXT, VISION), "proj.2.bias": (CONTEXT,), "proj.3": CONTEXT}
    elif kind == "face":
        shapes = {"proj.0.weight": (32, 16), "proj.0.bias": (32,)}
        shapes |= {"proj.2.weight": (4 * CONTEXT, 32), "proj.2.bias": (4 * CONTEXT,), "norm": CONTEXT}
    else:
        width, heads = 48, 2
        shapes = {"latents": (1, 6, width), "proj_in.weight": (width, VISION), "proj_in.bias": (width,)}
        shapes |= {"proj_out.weight": (CONTEXT, width), "proj_out.bias": (CONTEXT,), "norm_out": CONTEXT}
        for i in range(4):
            shapes |= {f"layers.{i}.0.norm1": width, f"layers.{i}.0.norm2": width, f"layers.{i}.1.0": width}
            shapes |= {
                f"layers.{i}.0.to_q.weight": (64 * heads, width),
                f"layers.{i}.0.to_kv.weight": (128 * heads, width),
            }
            shapes |= {f"layers.{i}.0.to_out.weight": (width, 64 * heads)}
            shapes |= {f"layers.{i}.1.1.weight": (4 * width, width), f"layers.{i}.1.3.weight": (width, 4 * width)}
    found = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        if isinstance(shape, int):  # a layer norm
            found |= {f"{name}.weight": 1 + _draw(shape, seed=seed), f"{name}.bias": _draw(shape, seed=seed + 50)}
        else:
            found[name] = _draw(*shape, seed=seed)
    return {"image_proj." + name: t for name, t in found.items()}


def _file(path, kind, unet):
    """Write an adapter for a U-Net of theirs: attentions are counted on the way down, up, in the middle."""
    tensors = _projection(kind)
    names = [n.removesuffix(".processor") for n in unet.attn_processors]
    stages = [[n for n in names if n.startswith(stage)] for stage in ("down", "up", "mid")]
    for number, name in enumerate(n for stage in stages for n in stage):
        if name.endswith("attn2"):
            width = unet.get_submodule(name).to_k.out_features
            for which in "kv":
                tensors[f"ip_adapter.{number}.to_{which}_ip.weight"] = _draw(width, CONTEXT, seed=number + ord(which))
    save_file(tensors, path)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ip")
    theirs = tiny_folders.sd(image_encoder=_encoder(), feature_extractor=_extractor())
    for kind in ("base", "plus", "full", "face"):
        _file(folder / f"{kind}.safetensors", kind, theirs.unet)
    tiny_folders.sd().save_pretrained(folder / "model")
    theirs.image_encoder.save_pretrained(folder / "image_encoder")
    return folder, theirs, sf.load(folder / "model"), read_image_tower(folder / "image_encoder")


def _extractor():
    return transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def _loaded(theirs, folder, kind, scale):
    name = f"{kind}.safetensors"
    theirs.load_ip_adapter(str(folder), subfolder="", weight_name=name, image_encoder_folder=None)
    theirs.set_ip_adapter_scale(scale)


@pytest.mark.parametrize("kind", ["base", "plus", "full", "face"])
def test_the_pictures_of_load_ip_adapter(case, kind):
    folder, theirs, pipe, tower = case
    adapter, lora = read_ip_adapter(folder / f"{kind}.safetensors", pipe.denoiser.net)
    assert lora is None
    x, picture = tiny_folders.start((1, 4, 8, 8)), _picture(5)
    plain = _ours(pipe, theirs, x, solver="ddim")
    told = {"prompt": "a red cat", "negative_prompt": "ugly", **TOLD, "latents": x.clone()}
    # (what their set_ip_adapter_scale takes, ours): all blocks; none of the middle, less on the way up
    tables = [
        (0.7, 0.7),
        (
            {"down": {"block_0": [0.9]}, "up": {"block_1": [0.2, 0.4]}},
            {"down.0": 0.9, "up.1.blocks.0": 0.2, "up.1": 0.4},
        ),
    ]
    _loaded(theirs, folder, kind, 1.0)
    try:
        for scale, ours in tables[: 1 + (kind == "base")]:
            theirs.set_ip_adapter_scale(scale)
            if kind == "face":
                face = _draw(1, 16, seed=3)
                both = torch.cat((torch.zeros(1, 1, 16), face[None]))
                expected = theirs(**told, ip_adapter_image_embeds=[both]).images
                shown = {"image": face}
            else:
                expected = theirs(**told, ip_adapter_image=picture).images
                shown = {"image": picture, "tower": tower}
            control = [ByImage(adapter=adapter, scale=ours, **shown)]
            out = _ours(pipe, theirs, x, solver="ddim", control=control)
            assert _distance(out, expected) < 0.5
            assert float((plain.pixels - out.pixels).abs().max() * 127.5) > 4
    finally:
        theirs.unload_ip_adapter()
        theirs.register_modules(image_encoder=_encoder(), feature_extractor=_extractor())
    off = _ours(pipe, theirs, x, solver="ddim", control=[ByImage(adapter=adapter, scale=0.0, **shown)])
    assert torch.equal(off.tensor, plain.tensor)
    assert pipe.again(out.settings(), control=control, start=x).request["control"] == out.request["control"]
    with pytest.raises(InputError, match="compiled runs do not listen"):
        pipe("cat", n=1, steps=1, control=control, compile=True)


@torch.no_grad()
def test_the_tower_is_shown_what_theirs_is(case):
    tower = case[3]
    g = torch.Generator().manual_seed(0)
    for shape in ((50, 41, 3), (32, 70, 3)):
        picture = Image.fromarray(torch.randint(0, 256, shape, generator=g, dtype=torch.uint8).numpy())
        expected = _extractor()(picture, return_tensors="pt").pixel_values
        assert float((tower.pixels(picture) - expected).abs().max()) < 2.5 / 255 / 0.26  # their resize rounds otherwise


@torch.no_grad()
def test_files_go_round_and_other_models_are_refused(case, tmp_path):
    folder, _, pipe, _ = case
    net = pipe.denoiser.net
    for kind in ("base", "plus", "full", "face"):
        adapter = read_ip_adapter(folder / f"{kind}.safetensors", net).adapter
        write_ip_adapter(tmp_path / f"{kind}.safetensors", adapter, net)
        first, second = (load_file(f / f"{kind}.safetensors") for f in (folder, tmp_path))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[k], second[k]) for k in first)
    tensors = load_file(folder / "base.safetensors")
    save_file({k: v for k, v in tensors.items() if "norm.bias" not in k}, tmp_path / "less.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks image_proj\.norm\.bias"):
        read_ip_adapter(tmp_path / "less.safetensors", net)
    save_file({k: v for k, v in tensors.items() if "ip_adapter.1." not in k}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"ip_adapter.1.to_k_ip.weight is missing.*made for another model"):
        read_ip_adapter(tmp_path / "other.safetensors", net)
    other = sf.nets.LatentUNetConfig(
        widths=(32, 64), transformers=(1, 1), heads=(4, 4), context=CONTEXT, groups=8
    ).build()
    adapter = read_ip_adapter(folder / "base.safetensors", net).adapter
    tokens = torch.zeros(1, 4, CONTEXT)
    with pytest.raises(InputError, match="made for another model"):
        ImagePrompt(adapter, other, tokens, tokens)
    with pytest.raises(InputError, match="pickles are never read"):
        read_ip_adapter(tmp_path / "a.bin", net)
    assert isinstance(adapter.config.tokens, LinearTokens)


@torch.no_grad()
def test_the_low_rank_changes_beside_an_adapter_of_faces(case, tmp_path):
    folder, theirs, pipe, _ = case
    net = pipe.denoiser.net
    tensors = load_file(folder / "face.safetensors")
    names = [n.removesuffix(".processor") for n in theirs.unet.attn_processors]
    order = [n for stage in ("down", "up", "mid") for n in names if n.startswith(stage)]
    number = order.index("up_blocks.1.attentions.1.transformer_blocks.0.attn1")
    weight = theirs.unet.up_blocks[1].attentions[1].transformer_blocks[0].attn1.to_out[0].weight
    up, down = _draw(32, 2), _draw(2, 32)
    more = {f"ip_adapter.{number}.to_out_lora.up.weight": up, f"ip_adapter.{number}.to_out_lora.down.weight": down}
    save_file(tensors | more, tmp_path / "face.safetensors")
    lora = read_ip_adapter(tmp_path / "face.safetensors", net).lora
    changed = merged(net, [(lora, 1.0)]).up[1].blocks[1].transformer.blocks[0].attn1.out.weight
    torch.testing.assert_close(changed, weight + up @ down)


@torch.no_grad()
def test_rows_see_their_own_picture_or_none(case):
    folder, _, pipe, _ = case
    net, plain = pipe.denoiser.net, pipe.denoiser
    adapter = read_ip_adapter(folder / "face.safetensors", net).adapter
    tokens, null = adapter(_draw(2, 16)), adapter(torch.zeros(1, 16))
    x, context = _draw(2, 4, 8, 8), _draw(2, 7, CONTEXT)

    def hooked(shown, scale=1.0):
        return Hooked(denoiser=plain, subscribe=[(reads_text, ImagePrompt(adapter, net, shown, null, scale))])

    both = hooked(tokens)(x, 0.5, context=context)
    for i in range(2):
        one = hooked(tokens[i : i + 1])(x[i : i + 1], 0.5, context=context[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], one, rtol=1e-5, atol=1e-5)
    told = hooked(tokens[:1]).playing(("cond", "null"))(x, 0.5, context=context)
    torch.testing.assert_close(told[1:], hooked(null)(x[1:], 0.5, context=context[1:]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(told[:1], hooked(tokens[:1])(x[:1], 0.5, context=context[:1]), rtol=1e-5, atol=1e-5)
    assert distance(told[1:], told[:1]) > 1e-2
    with pytest.raises(InputError, match="2 pictures for 3 samples"):
        hooked(tokens)(_draw(3, 4, 8, 8), 0.5, context=_draw(3, 7, CONTEXT))
    assert {s.stage for s in sites(net) if reads_text(s)} == {"down", "middle", "up"}


FEATURES = {"base": (2, EMBEDDING), "plus": (2, 5, VISION), "full": (2, 5, VISION), "face": (2, 16)}


def _steered(net, adapter, features, x, t, context):
    """Return the noise that a U-Net predicts with a picture's features as a prompt."""
    plain = sf.Preconditioned(net, sf.Rectified(), sf.Eps(), sf.core.Plain())
    prompt = ImagePrompt(adapter, net, adapter(features), adapter(torch.zeros_like(features[:1])), 0.7)
    moments = t.double() / 1000.0
    alpha, sigma = (v.float().view(-1, 1, 1, 1) for v in plain.schedule(moments))
    return (x - alpha * Hooked(denoiser=plain, subscribe=[(reads_text, prompt)])(x, moments, context=context)) / sigma


@pytest.mark.parametrize("kind", FEATURES)
def test_the_steered_network_is_theirs_in_both_dtypes_and_every_weight_shows(case, kind):
    folder, theirs, pipe, _ = case
    net = pipe.denoiser.net
    adapter = read_ip_adapter(folder / f"{kind}.safetensors", net).adapter
    x, t, context, features = (
        _draw(2, 4, 8, 8),
        torch.tensor([300.0, 700.0]),
        _draw(2, 7, CONTEXT),
        _draw(*FEATURES[kind]),
    )
    features = features / 0.3
    _loaded(theirs, folder, kind, 0.7)
    try:
        with torch.no_grad():
            told = lambda cast: {"added_cond_kwargs": {"image_embeds": [cast(features)[:, None]]}}
            expected = theirs.unet(x, t, context, **told(torch.Tensor.float)).sample
            cast = torch.Tensor.bfloat16
            peer = halved(theirs.unet)(cast(x), t, cast(context), **told(cast)).sample
    finally:
        theirs.unload_ip_adapter()
        theirs.register_modules(image_encoder=_encoder(), feature_extractor=_extractor())
    with torch.no_grad():
        assert distance(_steered(net, adapter, features, x, t, context), expected) < 2e-5
        half = _steered(halved(net), halved(adapter), features, x, t, context.bfloat16())
        assert distance(half, expected) < max(1e-2, 1.5 * distance(peer.float(), expected))
        compiled = torch.compile(adapter, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(features), adapter(features))
    assert not idle(adapter, lambda one: _steered(net, one, features, x, t, context))


@torch.no_grad()
def test_instant_id_is_both_together(case, tmp_path):
    """InstantID: face tokens as an image prompt, and as the text of a ControlNet that sees the key points."""
    folder, theirs, pipe, _ = case
    net = pipe.denoiser.net
    adapter = read_ip_adapter(folder / "face.safetensors", net).adapter
    _, identity = _controlnet(tmp_path / "identity", 1)
    face = _draw(1, 16, seed=9)
    x, points = tiny_folders.start((1, 4, 8, 8)), _picture(2)
    tokens, null = adapter(face), adapter(torch.zeros(1, 16))
    net_part = ByControlNet(net=identity, hint=points, scale=0.8, context=(tokens, null))
    image_part = ByImage(adapter=adapter, image=face, scale=0.8)
    out = _ours(pipe, theirs, x, solver="ddim", control=[image_part, net_part])

    # by hand: their U-Net with the face's keys, their ControlNet reading the face instead of the text
    _loaded(theirs, folder, "face", 0.8)
    one = diffusers.ControlNetModel.from_pretrained(tmp_path / "identity")
    text = theirs.encode_prompt("a red cat", "cpu", 1, True, "ugly")
    context, read = torch.cat((text[1], text[0])), torch.cat((null, tokens))
    embeds = torch.cat((torch.zeros(1, 16), face))[:, None]
    hint = torch.from_numpy(np.array(points)).permute(2, 0, 1)[None] / 255
    theirs.scheduler.set_timesteps(6)
    h = x.clone()
    for t in theirs.scheduler.timesteps:
        doubled = torch.cat((h, h))
        down, middle = one(doubled, t, read, hint.expand(2, -1, -1, -1), 0.8, return_dict=False)
        eps = theirs.unet(
            doubled,
            t,
            context,
            added_cond_kwargs={"image_embeds": [embeds]},
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        nothing, given = eps.chunk(2)
        h = theirs.scheduler.step(nothing + 5.0 * (given - nothing), t, h).prev_sample
    theirs.unload_ip_adapter()
    theirs.register_modules(image_encoder=_encoder(), feature_extractor=_extractor())
    assert distance(out.tensor, h) < 1e-3
    alone = _ours(pipe, theirs, x, solver="ddim", control=[net_part])
    assert distance(alone.tensor, h) > 1e-2
    off = [ByImage(adapter=adapter, image=face, scale=0.0), ByControlNet(net=identity, hint=points, scale=0.0)]
    assert torch.equal(
        _ours(pipe, theirs, x, solver="ddim", control=off).tensor, _ours(pipe, theirs, x, solver="ddim").tensor
    )
