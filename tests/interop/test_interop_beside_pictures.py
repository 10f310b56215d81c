"""Pipelines that are shown more than a prompt, against diffusers': depth, a small picture, a learned guidance."""

from dataclasses import replace
from itertools import pairwise

import diffusers
import pytest
import tiny_folders
import torch
import transformers
from interop_parity import scrambled
from PIL import Image

import sfumato as sf
from sfumato import InputError
from sfumato.conditioning.depth import read_depth_model
from sfumato.core import CheckpointError
from sfumato.interop.diffusers.sampler import sampler
from sfumato.interop.diffusers.scheduler import contract
from sfumato.interop.diffusers.writing import write_pipeline
from sfumato.pipeline.extra import Depth, Upscale
from sfumato.pipeline.given import map_of

SOLVERS = {
    "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": True, "clip_sample": False}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}
ALL = ["ddim", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dpm++2m", "unipc"))]
TOLD = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "pt", "negative_prompt": "ugly"}
ASKED = {"n": 1, "guidance": 5.0, "negative": "ugly"}


def picture(width=16, height=16, seed=0):
    """Return a picture with large and small things in it."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (3, height // 4, width // 4), generator=g, dtype=torch.uint8)
    fine = torch.randint(0, 40, (height, width, 3), generator=g, dtype=torch.uint8)
    whole = coarse.permute(1, 2, 0).repeat_interleave(4, 0).repeat_interleave(4, 1)
    return Image.fromarray((whole.int() + fine.int()).clamp(0, 255).byte().numpy())


def distance(out, expected):
    assert expected.std() > 0.05  # a picture, not a plane
    return float(((out.pixels + 1).clamp(0, 2) * 127.5 - expected * 255).abs().max())


def dpt(hybrid=False):
    """Return a tiny depth model, as the published one with convolutions before its transformer or without."""
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 64 if hybrid else 32,
        "patch_size": 16 if hybrid else 8,
        "neck_hidden_sizes": [16, 32, 16, 16] if hybrid else [8, 8, 8, 8],
        "fusion_hidden_size": 8,
        "backbone_out_indices": [0, 1, 2, 3],
        "use_auxiliary_head": False,
    }
    if hybrid:
        bit = {"model_type": "bit", "global_padding": "same", "layer_type": "bottleneck", "num_groups": 2}
        bit |= {"depths": [1, 1, 1], "hidden_sizes": [16, 32, 64], "embedding_size": 8}
        bit |= {"out_features": ["stage1", "stage2", "stage3"], "embedding_dynamic_padding": True}
        small |= {"is_hybrid": True, "backbone_featmap_shape": [1, 64, 4, 4], "neck_ignore_stages": [0, 1]}
        small |= {"reassemble_factors": [1, 1, 1, 0.5], "readout_type": "project", "backbone_config": bit}
    return scrambled(transformers.DPTForDepthEstimation(transformers.DPTConfig(**small)), 3)


def shown(side):
    return transformers.DPTImageProcessor(size={"height": side, "width": side})


@pytest.mark.parametrize("hybrid", [False, True])
@torch.no_grad()
def test_depth_models_tell_the_depth_that_transformers_tells(hybrid, tmp_path):
    uneven = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    side = 64 if hybrid else 32
    theirs = dpt(hybrid)
    processor = transformers.DPTImageProcessor(size={"height": side, "width": side}, **uneven)
    theirs.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    image = picture(40, 56)
    expected = theirs(processor(images=[image], return_tensors="pt").pixel_values).predicted_depth
    found = read_depth_model(tmp_path)
    got = found(sf.pipeline.given.as_it_is(image))
    assert expected.std() > 1e-3 * expected.abs().max()
    torch.testing.assert_close(got[:, 0], expected)
    wide = transformers.DPTImageProcessor(size={"height": 24, "width": 48}, do_normalize=False)
    levels = (sf.pipeline.given.as_it_is(image)[0] + 1) * 127.5
    prepared = replace(found, size=(24, 48))._shown(levels)
    torch.testing.assert_close(prepared, wide(images=[image], return_tensors="pt").pixel_values)


def test_what_is_no_depth_model_is_refused(tmp_path):
    dpt().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"keep_aspect_ratio": true}')
    with pytest.raises(InputError, match="keep_aspect_ratio=True is not read"):
        read_depth_model(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"size": "large"}')
    with pytest.raises(InputError, match="size='large' must be"):
        read_depth_model(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"num_hidden_layers": 4', '"num_hidden_layers": 5'))
    with pytest.raises(CheckpointError, match=r"lacks dpt\.encoder\.layer\.4"):
        read_depth_model(tmp_path)
    (tmp_path / "config.json").write_text(text.replace("DPTForDepthEstimation", "DPTForSemanticSegmentation"))
    with pytest.raises(InputError, match="depth models are read of"):
        read_depth_model(tmp_path)


def depth_folder(path, **parts):
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
    made = {"depth_estimator": dpt(), "feature_extractor": shown(32), "scheduler": scheduler}
    vae = {"vae": tiny_folders.vae(**tiny_folders.FACTOR_8), "unet_changes": {"in_channels": 5, "sample_size": 8}}
    theirs = depth_pipeline(**(made | vae | parts))
    theirs.save_pretrained(path)
    return theirs, sf.load(path)


def depth_pipeline(*, unet_changes, **parts):
    made = {
        "unet": tiny_folders.unet(**unet_changes),
        "text_encoder": tiny_folders.tiny_text.clip_text(),
        "tokenizer": tiny_folders.tiny_text.clip_tokenizer(),
    }
    return tiny_folders.quiet(diffusers.StableDiffusionDepth2ImgPipeline(**(made | parts)))


@pytest.fixture
def draws(monkeypatch):
    """Let their pipelines draw the noise that ours draws for seed 0: the start of a run, that of a small picture."""

    def fixed(shape, *args, **kwargs):
        shape = tuple(shape)
        key = "low resolution" if shape[1] == 3 else "start"
        return sf.Noise([0]).normal(shape, key)

    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())
    for name in ("depth2img", "upscale"):
        monkeypatch.setattr(
            f"diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_{name}.randn_tensor", fixed
        )


@pytest.mark.parametrize("solver", ALL)
def test_depth_of_a_picture_or_of_a_map_steers(solver, tmp_path, draws):
    theirs, pipe = depth_folder(tmp_path / "model")
    assert isinstance(pipe.extra, Depth)
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    image = picture(64, 64)
    grid = tiny_folders.times(theirs.scheduler, 6)
    # the start of a part of a run: multistep solvers of theirs begin at the first step that is run
    told = {"prompt": "a red cat", "image": image, "strength": 0.7, **TOLD}
    asked = {"image": image, "strength": 0.7, "grid": grid, "solver": solver, **ASKED}
    out = pipe("a red cat", **asked)
    assert distance(out, theirs(**told).images) < 0.5
    # a map of its own, of another size, instead of the picture's
    ramp = torch.linspace(0, 3, 48).expand(32, 48) ** 2
    expected = theirs(**told, depth_map=ramp[None]).images
    other = pipe("a red cat", depth=ramp, **asked)
    assert distance(other, expected) < 0.5
    assert distance(out, expected) > 4  # the map matters
    assert torch.equal(pipe.again(other.settings(), image=image, depth=ramp).tensor, other.tensor)
    with pytest.raises(InputError, match="depth: the picture to make again was made from one"):
        pipe.again(other.settings(), image=image)
    with pytest.raises(InputError, match="depth is not the one"):
        pipe.again(other.settings(), image=image, depth=ramp.flip(1))
    assert torch.equal(pipe.again(out.settings(), image=image).tensor, out.tensor)


def test_depth_maps_come_in_many_forms_and_a_run_can_start_from_noise(tmp_path):
    _, pipe = depth_folder(tmp_path / "model")
    values = torch.arange(64 * 64).reshape(64, 64) % 251
    forms = [
        values.float(),
        values[None, None] * 3.0,  # its range is its own
        Image.fromarray(values.byte().numpy()),
        Image.fromarray(values.int().numpy().astype("uint16")),
    ]
    made = [pipe("a cat", n=1, steps=2, depth=form).tensor for form in forms]
    for other in made[1:]:
        torch.testing.assert_close(other, made[0], rtol=1e-4, atol=1e-5)
    Image.fromarray(values.byte().numpy()).save(tmp_path / "map.png")
    torch.testing.assert_close(pipe("a cat", n=1, steps=2, depth=tmp_path / "map.png").tensor, made[0])
    for bad in (torch.zeros(2, 1, 8, 8), torch.full((8, 8), torch.nan), torch.zeros(8)):
        with pytest.raises(InputError, match="a depth map must be finite and"):
            pipe("a cat", n=1, depth=bad)
    with pytest.raises(InputError, match="give depth="):
        pipe("a cat", n=1)


def test_a_depth_map_of_16_bits_keeps_them_and_one_of_a_single_value_is_refused(tmp_path):
    _, pipe = depth_folder(tmp_path / "model")
    values = 1000 + torch.arange(64 * 64).reshape(64, 64) % 21  # four levels of 8 bits at most
    file = tmp_path / "map.png"
    Image.fromarray(values.int().numpy().astype("uint16")).save(file)
    assert torch.equal(map_of(file), values[None, None].float())
    made = pipe("a cat", n=1, steps=2, depth=values.float())
    with Image.open(file) as opened:
        for form in (file, str(file), opened):
            other = pipe("a cat", n=1, steps=2, depth=form)
            assert torch.equal(other.tensor, made.tensor)
            assert other.request["depth"] == made.request["depth"]
    for flat in (torch.full((48, 32), 0.1), torch.zeros(8, 8), Image.new("L", (20, 30), 7), 3e4 + torch.zeros(64, 64)):
        with pytest.raises(InputError, match=r"the depth map is \S+ everywhere: give depth="):
            pipe("a cat", n=1, depth=flat)


def test_a_depth_model_is_a_part_of_its_pipeline(tmp_path):
    _, pipe = depth_folder(tmp_path / "model")
    again = sf.load(pipe.save(tmp_path / "ours"))
    assert again.sha256() == pipe.sha256()
    image = picture(64, 64)
    first = pipe("a cat", n=1, steps=3, image=image)
    assert first.request["strength"] == 0.8
    assert torch.equal(again("a cat", n=1, steps=3, image=image).tensor, first.tensor)
    with torch.no_grad():
        next(again.depth_model.model.parameters()).add_(1.0)
    assert again.sha256() != pipe.sha256()
    again.to(torch.bfloat16)
    assert next(again.depth_model.model.parameters()).dtype == torch.float32
    with pytest.raises(InputError, match="a depth model is for networks that paint over"):
        sf.pipeline.Pipeline(
            denoiser=pipe.denoiser,
            shape=pipe.shape,
            conditioner=pipe.conditioner,
            codec=pipe.codec,
            depth_model=pipe.depth_model,
        )


def upscaler(path):
    theirs = tiny_folders.quiet(
        diffusers.StableDiffusionUpscalePipeline(
            unet=tiny_folders.unet(in_channels=7, num_class_embeds=1000, only_cross_attention=(True, False)),
            vae=tiny_folders.vae(scaling_factor=0.08333),
            text_encoder=tiny_folders.tiny_text.clip_text(),
            tokenizer=tiny_folders.tiny_text.clip_tokenizer(),
            low_res_scheduler=diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02),
            scheduler=diffusers.DDIMScheduler(
                beta_schedule="scaled_linear", prediction_type="v_prediction", clip_sample=False, steps_offset=1
            ),
            max_noise_level=350,
        )
    )
    theirs.save_pretrained(path)
    return theirs, sf.load(path)


@pytest.mark.parametrize("solver", ALL)
def test_a_small_picture_is_enlarged(solver, tmp_path, draws):
    theirs, pipe = upscaler(tmp_path / "model")
    assert isinstance(pipe.extra, Upscale)
    assert (pipe.defaults.guidance, pipe.defaults.steps) == (9.0, 75)
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    image, x = picture(12, 8), tiny_folders.start((1, 4, 8, 12))
    grid = tiny_folders.times(theirs.scheduler, 6)
    asked = {"image": image, "grid": grid, "solver": solver, "start": x, **ASKED}
    outs = []
    for level in (None, 100):
        told = {} if level is None else {"noise_level": level}
        expected = theirs("a red cat", image=image, latents=x.clone(), **told, **TOLD).images
        out = pipe("a red cat", **told, **asked)
        assert out.pixels.shape[-2:] == (16, 24)  # twice as large: this codec's factor
        assert out.request["noise_level"] == (20 if level is None else level)
        assert distance(out, expected) < 0.5
        outs.append(out)
    assert (outs[0].pixels - outs[1].pixels).abs().max() > 0.05  # the level matters
    again = pipe.again(outs[1].settings(), image=image, start=x)
    assert torch.equal(again.tensor, outs[1].tensor)


def test_each_enlarged_picture_has_noise_of_its_own_seed(tmp_path):
    _, pipe = upscaler(tmp_path / "model")
    image = picture(8, 8)
    some = pipe(["a cat", "the dog"], n=2, steps=3, seed=5, image=image, solver="ddim")
    one = pipe("the dog", n=1, steps=3, seed=7, image=image, solver="ddim")
    torch.testing.assert_close(some.tensor[2:3], one.tensor, rtol=1e-4, atol=1e-5)
    assert (some.tensor[2] - some.tensor[3]).abs().max() > 1e-2
    large = pipe("a cat", n=1, steps=2, image=image, size=(24, 16))  # the small one is brought to 12 x 8
    assert large.pixels.shape[-2:] == (24, 16)
    again = sf.load(pipe.save(tmp_path / "ours"))
    assert again.extra == pipe.extra
    for asked, says in (
        ({"noise_level": 351}, "noise_level=351 must be a whole number from 0 to 350"),
        ({"noise_level": True}, "noise_level=True"),
        ({"strength": 0.5}, "reads a small one beside it"),
        ({"mask": torch.ones(1, 1, 8, 8)}, "reads a small one beside it"),
        ({"image": None}, "enlarges a picture: give image="),
        ({"depth": torch.ones(8, 8)}, "depth is for networks that paint over a depth map"),
    ):
        with pytest.raises(InputError, match=says):
            pipe("a cat", n=1, **({"image": image} | asked))


def lcm(path):
    scheduler = diffusers.LCMScheduler(**tiny_folders.BETAS, clip_sample=False, set_alpha_to_one=True)
    theirs = tiny_folders.sd(
        "LatentConsistencyModelPipeline",
        scheduler=scheduler,
        unet_changes={"time_cond_proj_dim": 16},
        requires_safety_checker=False,
    )
    theirs.save_pretrained(path)
    return theirs, sf.load(path)


@pytest.mark.parametrize("guidance", [None, 3.0, 1.0])
@pytest.mark.parametrize("steps", [4, 1])
def test_consistency_models_are_told_their_guidance(guidance, steps, tmp_path, monkeypatch):
    theirs, pipe = lcm(tmp_path / "model")
    assert pipe.defaults == sf.pipeline.Defaults(solver=sf.solvers.LCM(), grid="lcm", steps=4, guidance=8.5)
    x = tiny_folders.start((1, 4, 8, 8))
    grid = tiny_folders.times(theirs.scheduler, steps)
    assert grid == pytest.approx(sf.grids.lcm(pipe.denoiser.schedule, steps).tolist())
    spans = pairwise(grid)
    # their sampler draws what ours draws for seed 0 between the same times
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_lcm.randn_tensor",
        lambda shape, **_: sf.Noise([0]).increment(torch.zeros(shape), *next(spans)),
    )
    told = {} if guidance is None else {"guidance_scale": guidance}
    expected = theirs("a red cat", num_inference_steps=steps, latents=x.clone(), output_type="pt", **told).images
    seen = []
    handle = pipe.denoiser.net.conv_in.register_forward_hook(lambda m, i, o: seen.append(len(o)))
    read = pipe.conditioner.towers["clip"].model.register_forward_hook(lambda *_: seen.append("text"))
    out = pipe("a red cat", n=1, steps=steps, guidance=guidance, start=x)
    handle.remove()
    read.remove()
    assert seen == ["text", *[1] * steps]  # one text, one evaluation of one row: nothing is guided from outside
    assert distance(out, expected) < 0.5
    other = pipe("a red cat", n=1, steps=steps, guidance=5.5, start=x)
    assert (other.pixels - out.pixels).abs().max() > 0.01  # the scale matters
    for name, value in (("negative", "ugly"), ("rescale", 0.5), ("guidance_interval", (0.1, 2)), ("image_guidance", 2)):
        with pytest.raises(InputError, match=f"{name}=.* does nothing with a network that was distilled"):
            pipe("a red cat", n=1, **{name: value})
    with pytest.raises(InputError, match="guidance=nan"):
        pipe("a red cat", n=1, guidance=float("nan"))


def test_the_spacing_of_distilled_models_goes_round_and_others_are_refused():
    for cls in (diffusers.LCMScheduler, diffusers.TCDScheduler):
        said = dict(cls(**tiny_folders.BETAS).config) | {"_class_name": cls.__name__}
        found = contract(said)
        assert found.grid == "lcm"
        back = sampler(found.schedule, found.prediction, found.solver, found.grid)
        assert back["_class_name"] == cls.__name__
        assert contract(back) == found
        with pytest.raises(InputError, match="original_inference_steps=25 is not read"):
            contract(said | {"original_inference_steps": 25})


@pytest.mark.parametrize("savers", [("strips",), ("tiles",), ("slices",)])
def test_instructions_are_told_the_same_in_less_memory(savers, tmp_path):
    name = "StableDiffusionInstructPix2PixPipeline"
    tiny_folders.sd(name, unet_changes={"in_channels": 8}).save_pretrained(tmp_path)
    pipe = sf.load(tmp_path)
    plain = pipe("a red cat", n=1, steps=3, image=picture())
    pipe.memory = savers
    torch.testing.assert_close(
        pipe("a red cat", n=1, steps=3, image=picture()).pixels, plain.pixels, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["depth", "upscaler"])
def test_what_stands_beside_is_written_back_and_diffusers_loads_it(kind, tmp_path):
    make = depth_folder if kind == "depth" else upscaler
    theirs, pipe = make(tmp_path / "model")
    write_pipeline(pipe, tmp_path / "back")
    assert sf.load(tmp_path / "back").sha256() == pipe.sha256()
    back = type(theirs).from_pretrained(tmp_path / "back")
    for name in ("unet", "vae", "text_encoder", *(["depth_estimator"] if kind == "depth" else [])):
        first, second = getattr(theirs, name).state_dict(), getattr(back, name).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    if kind == "depth":
        shape = ("size", "image_mean", "image_std", "do_resize", "keep_aspect_ratio", "resample")
        assert all(getattr(theirs.feature_extractor, k) == getattr(back.feature_extractor, k) for k in shape)
    else:
        assert back.config.max_noise_level == 350
        first, second = theirs.low_res_scheduler.alphas_cumprod, back.low_res_scheduler.alphas_cumprod
        torch.testing.assert_close(first, second)
