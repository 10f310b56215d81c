"""Whole pipelines against diffusers': the same folder, noise and times give the same pictures."""

import json
import math

import pytest
import tiny_folders
import torch
from PIL import Image

import sfumato as sf
from sfumato.conditioning import Frame
from sfumato.guidance import ClassifierFree, SkipLayer
from sfumato.nets.hooked import Hooked
from sfumato.nets.perturbed import Perturbed
from sfumato.pipeline.extra import Inpainting, Instruct
from sfumato.pipeline.given import Start, given

diffusers = pytest.importorskip("diffusers")

SOLVERS = {
    "ddim": (diffusers.DDIMScheduler, {"set_alpha_to_one": True, "clip_sample": False}),
    "dpm++2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "unipc": (diffusers.UniPCMultistepScheduler, {}),
}


def saved(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / "model")
    return sf.load(tmp_path / "model")


def levels(out):
    """Return pictures as numbers in 0..255."""
    return (out.pixels + 1).clamp(0, 2) * 127.5


def distance(ours, theirs):
    assert theirs.std() > 0.05  # a picture, not a plane
    return float((levels(ours) - theirs * 255).abs().max())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_stable_diffusion(solver, kind, tmp_path):
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1, prediction_type=kind)
    theirs = tiny_folders.sd(scheduler=scheduler)
    pipe = saved(theirs, tmp_path)
    assert isinstance(pipe.denoiser.prediction, sf.Eps if kind == "epsilon" else sf.V)
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    x = tiny_folders.start((2, 4, 8, 8))
    told = {"num_inference_steps": 6, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    expected = theirs(["a red cat", "the dog"], negative_prompt=["ugly", "blurry"], **told).images
    grid = tiny_folders.times(theirs.scheduler, 6)
    out = pipe(
        ["a red cat", "the dog"], n=1, negative=["ugly", "blurry"], guidance=5.0, grid=grid, solver=solver, start=x
    )
    assert distance(out, expected) < 0.1


@pytest.fixture
def modes(monkeypatch):
    """Let their in-painting encode by the posterior's mode, as ours does: a sample has noise of its own."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode())


PICTURE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4))
HOLE = torch.zeros(1, 1, 16, 16)
HOLE[..., 4:12, 6:14] = 1


@pytest.mark.parametrize("negative", [None, "ugly", ""])
def test_sdxl_is_told_sizes_and_zeros_for_no_prompt(negative, tmp_path):
    theirs = tiny_folders.xl()
    pipe = saved(theirs, tmp_path)
    x = tiny_folders.start((1, 4, 8, 8))
    told = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    frame = {"original_size": (64, 48), "crops_coords_top_left": (3, 5), "target_size": (16, 16)}
    expected = theirs("a red cat", negative_prompt=negative, height=16, width=16, **told, **frame).images
    size = Frame(height=16, width=16, original=(64, 48), crop=(3, 5))
    out = pipe("a red cat", n=1, negative=negative, guidance=5.0, steps=5, start=x, frame=size)  # its own sampler
    assert distance(out, expected) < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_sdxl_with_other_samplers(solver, tmp_path):
    theirs = tiny_folders.xl()
    pipe = saved(theirs, tmp_path)
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    x = tiny_folders.start((1, 4, 8, 8))
    told = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    expected = theirs("a red cat", height=16, width=16, **told).images
    grid = tiny_folders.times(theirs.scheduler, 5)
    assert distance(pipe("a red cat", n=1, guidance=5.0, grid=grid, solver=solver, start=x), expected) < 0.1


def test_the_refiner_goes_on_from_a_picture(tmp_path):
    theirs = tiny_folders.xl("StableDiffusionXLImg2ImgPipeline")
    pipe = saved(theirs, tmp_path)
    told = {"num_inference_steps": 8, "guidance_scale": 5.0, "output_type": "pt", "negative_prompt": "ugly"}
    draws = torch.Generator().manual_seed(0)
    expected = theirs("a red cat", image=PICTURE, strength=0.5, generator=draws, **told).images
    draws.manual_seed(0)
    z = theirs.vae.encode(PICTURE * 2 - 1).latent_dist.sample(draws) * theirs.vae.config.scaling_factor
    grid = tiny_folders.times(theirs.scheduler, 8)[4:]
    alpha, sigma = pipe.denoiser.schedule(grid[0])
    start = z * alpha + torch.randn(z.shape, generator=draws) * sigma
    assert distance(pipe("a red cat", n=1, negative="ugly", guidance=5.0, grid=grid, start=start), expected) < 0.1


@pytest.mark.parametrize("kind", ["sd-9", "sd-4", "xl-9"])
def test_in_painting_keeps_what_the_mask_keeps_exactly(kind, tmp_path, modes):
    channels = {"in_channels": int(kind[-1])}
    if kind.startswith("sd"):
        scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
        theirs = tiny_folders.sd("StableDiffusionInpaintPipeline", scheduler=scheduler, unet_changes=channels)
    else:
        theirs = tiny_folders.xl("StableDiffusionXLInpaintPipeline", unet_changes=channels)
    pipe = saved(theirs, tmp_path)
    assert isinstance(pipe.extra, Inpainting) == (kind[-1] == "9")
    x = tiny_folders.start((1, 4, 8, 8))
    told = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    expected = theirs("a red cat", image=PICTURE, mask_image=HOLE, height=16, width=16, strength=1.0, **told).images
    grid = tiny_folders.times(theirs.scheduler, 5)
    out = pipe("a red cat", n=1, guidance=5.0, grid=grid, start=x, image=PICTURE * 2 - 1, mask=HOLE)
    free = (pipe.codec.decode(out.tensor).detach() + 1).clamp(
        0, 2
    ) * 127.5  # before the paste: theirs pastes on demand alone
    assert float((free - expected * 255).abs().max()) < 2
    kept = (HOLE < 0.5).expand_as(PICTURE)
    assert torch.equal(out.pixels[kept], (PICTURE * 2 - 1)[kept])
    assert not torch.allclose(out.pixels[~kept], (PICTURE * 2 - 1)[~kept], atol=0.1)


@pytest.mark.parametrize("kind", ["ramp", "half", "picture"])
def test_a_grey_mask_paints_where_it_is_at_least_one_half_as_theirs_does(kind, tmp_path, modes):
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
    theirs = tiny_folders.sd("StableDiffusionInpaintPipeline", scheduler=scheduler, unet_changes={"in_channels": 9})
    pipe = saved(theirs, tmp_path)
    mask = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    if kind == "half":
        mask = torch.where(mask > 0.5, 0.5, 0.4)  # one half exactly is to be painted
    shown = Image.fromarray((mask[0, 0] * 255).round().byte().numpy()) if kind == "picture" else mask
    x, grid = tiny_folders.start((1, 4, 8, 8)), tiny_folders.times(theirs.scheduler, 5)
    told = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    # theirs writes the mask that it makes into the tensor that it is given
    asked = {"image": PICTURE, "mask_image": shown if kind == "picture" else mask.clone(), "strength": 1.0}
    expected = theirs("a red cat", **asked, height=16, width=16, **told).images
    out = pipe("a red cat", n=1, guidance=5.0, grid=grid, start=x, image=PICTURE * 2 - 1, mask=shown)
    made = (pipe.codec.decode(out.tensor).detach() + 1).clamp(0, 2) * 127.5
    assert float((made - expected * 255).abs().max()) < 2
    kept = (mask < 0.5).expand_as(PICTURE)
    assert 0 < kept.sum() < kept.numel()
    assert torch.equal(out.pixels[kept], (PICTURE * 2 - 1)[kept])


@pytest.mark.parametrize("channels", [4, 9])
def test_a_hole_starts_from_noise_alone_at_strength_1_as_theirs_does(channels, tmp_path, modes):
    """The picture under the hole must not show through: alpha is not 0 where a grid of theirs begins."""
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
    changes = {"in_channels": channels}
    theirs = tiny_folders.sd("StableDiffusionInpaintPipeline", scheduler=scheduler, unet_changes=changes)
    draws, shape = torch.Generator().manual_seed(3), (1, 4, 8, 8)
    made = theirs.prepare_latents(1, 4, 16, 16, torch.float32, "cpu", draws, image=PICTURE)
    assert torch.equal(made[0], torch.randn(shape, generator=draws.manual_seed(3)))  # theirs begins so, everywhere
    pipe = saved(theirs, tmp_path)
    grid = torch.as_tensor(tiny_folders.times(theirs.scheduler, 5))
    noise, picture = sf.Noise([7]), PICTURE * 2 - 1
    free = torch.nn.functional.interpolate(HOLE, (8, 8)) >= 0.5
    for late in (0, 2):  # ours keeps the noised picture where the mask keeps it, from the first step on
        alpha, sigma = pipe.denoiser.schedule(float(grid[late]))
        shown = Start(image=picture, mask=HOLE, strength=1.0)
        start = given(pipe, pipe.codec, grid[late:], shape[1:], noise, torch.device("cpu"), shown).start
        kept = ~free * alpha * pipe.codec.encode(picture) if channels == 4 else 0
        expected = noise.normal(shape, "start") * sigma + kept
        torch.testing.assert_close(start, expected)
    if channels == 9:  # to which all is noise at first
        x = noise.normal(shape, "start") * float(pipe.denoiser.schedule(float(grid[0]))[1])
        told = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "pt", "strength": 1.0, "latents": x}
        expected = theirs("a red cat", image=PICTURE, mask_image=HOLE, height=16, width=16, **told).images
        asked = {"n": 1, "seed": 7, "guidance": 5.0, "grid": grid, "strength": 1.0}
        out = pipe("a red cat", image=picture, mask=HOLE, **asked)
        made = (pipe.codec.decode(out.tensor).detach() + 1).clamp(0, 2) * 127.5
        assert float((made - expected * 255).abs().max()) < 2


def test_instructions_edit_a_picture_with_two_scales(tmp_path):
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
    name = "StableDiffusionInstructPix2PixPipeline"
    theirs = tiny_folders.sd(name, scheduler=scheduler, unet_changes={"in_channels": 8})
    pipe = saved(theirs, tmp_path)
    assert isinstance(pipe.extra, Instruct)
    x = tiny_folders.start((1, 4, 8, 8))
    told = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    expected = theirs("a red cat", image=PICTURE, image_guidance_scale=1.7, negative_prompt="ugly", **told).images
    grid = tiny_folders.times(theirs.scheduler, 5)
    asked = {"negative": "ugly", "guidance": 5.0, "image_guidance": 1.7, "grid": grid, "start": x}
    assert distance(pipe("a red cat", n=1, image=PICTURE * 2 - 1, **asked), expected) < 0.1


FLOWS = {"euler": None, "dpm++2m": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}


@pytest.mark.parametrize("solver", FLOWS)
@pytest.mark.parametrize("family", ["sd3", "lumina"])
def test_flows_on_their_own_grid_and_others(family, solver, tmp_path):
    theirs = getattr(tiny_folders, family)()
    pipe = saved(theirs, tmp_path)
    assert isinstance(pipe.denoiser.schedule, sf.Rectified)
    x = tiny_folders.start((1, *pipe.shape))
    side = pipe.shape[1] * pipe.codec.factor
    told = {"guidance_scale": 4.0, "output_type": "pt", "negative_prompt": "ugly", "height": side, "width": side}
    asked = {"negative": "ugly", "guidance": 4.0, "start": x, "n": 1}
    if FLOWS[solver] is None:
        asked["steps"] = 5
    else:
        theirs.scheduler = unrounded(FLOWS[solver])(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        )
        theirs.scheduler.set_timesteps(5)
        levels = [float(s) for s in theirs.scheduler.sigmas]
        inverse = pipe.denoiser.schedule.inverse
        asked["grid"] = [inverse(math.log((1 - s) / s)) if s > 0 else 0.0 for s in levels]
    expected = theirs("a red cat", num_inference_steps=5, latents=x.clone(), **told).images
    assert distance(pipe("a red cat", solver=solver, **asked), expected) < 0.1


def test_sd3_without_t5_reads_zeros_as_wide_as_its_network_does(tmp_path):
    theirs = tiny_folders.sd3(text_encoder_3=None, tokenizer_3=None)
    pipe = saved(theirs, tmp_path)
    x = tiny_folders.start((1, *pipe.shape))
    told = {"guidance_scale": 4.0, "output_type": "pt", "negative_prompt": "ugly", "height": 16, "width": 16}
    expected = theirs("a red cat", num_inference_steps=5, latents=x.clone(), **told).images
    assert distance(pipe("a red cat", n=1, steps=5, negative="ugly", guidance=4.0, start=x), expected) < 0.1


def unrounded(name):
    """Return a scheduler of theirs that tells the network 1000 sigma, where theirs cuts it to a whole number."""

    class Unrounded(getattr(diffusers, name)):
        def set_timesteps(self, *args, **kwargs):
            super().set_timesteps(*args, **kwargs)
            self.timesteps = self.sigmas[:-1] * 1000

    return Unrounded


@pytest.mark.parametrize("solver", SOLVERS)
def test_pixart(solver, tmp_path):
    theirs = tiny_folders.pixart()
    pipe = saved(theirs, tmp_path)
    assert isinstance(pipe.denoiser.prediction, sf.core.LearnedVariance)
    x = tiny_folders.start((1, 4, 8, 8))
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    told = {"num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "pt", "latents": x.clone()}
    size = {"height": 16, "width": 16, "use_resolution_binning": False, "clean_caption": False}
    expected = theirs("A red cat", negative_prompt="ugly", **told, **size).images
    grid = tiny_folders.times(theirs.scheduler, 5)
    out = pipe("A red cat", n=1, negative="ugly", guidance=4.0, grid=grid, solver=solver, start=x)
    assert distance(out, expected) < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
def test_dit_by_the_name_of_a_class(solver, tmp_path, monkeypatch):
    theirs = tiny_folders.dit()
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    theirs.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["id2label"] = {str(i): f"thing {i}, another name" for i in range(1000)}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    pipe = sf.load(tmp_path)
    x = tiny_folders.start((1, 4, 8, 8))
    monkeypatch.setattr("diffusers.pipelines.dit.pipeline_dit.randn_tensor", lambda shape, **_: x.clone())
    expected = theirs([207], num_inference_steps=5, guidance_scale=4.0, output_type="np").images
    grid = tiny_folders.times(theirs.scheduler, 5)
    out = pipe("thing 207", n=1, guidance=4.0, grid=grid, solver=solver, start=x)
    assert distance(out, torch.from_numpy(expected).permute(0, 3, 1, 2)) < 0.1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("version", [1.1, 1.2])
def test_hunyuan_dit(version, solver, tmp_path):
    theirs = tiny_folders.hunyuan(styles=version < 1.2)
    pipe = saved(theirs, tmp_path)
    assert isinstance(pipe.denoiser.prediction.prediction, sf.V)
    cls, changes = SOLVERS[solver]
    theirs.scheduler = cls.from_config(theirs.scheduler.config, **changes)
    x = tiny_folders.start((1, 4, 8, 8))
    told = {"num_inference_steps": 5, "guidance_scale": 4.0, "output_type": "pt", "latents": x.clone()}
    size = {"height": 64, "width": 64, "use_resolution_binning": False}
    expected = theirs("a red cat", negative_prompt="ugly", **told, **size).images
    grid = tiny_folders.times(theirs.scheduler, 5)
    out = pipe("a red cat", n=1, negative="ugly", guidance=4.0, grid=grid, solver=solver, start=x)
    assert distance(out, expected) < 0.1


def test_the_refiner_takes_over_where_the_base_stops(tmp_path):
    base, refiner = tiny_folders.xl(), tiny_folders.xl("StableDiffusionXLImg2ImgPipeline")
    for pipe in (base, refiner):
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **SOLVERS["ddim"][1])
    base.save_pretrained(tmp_path / "base")
    refiner.save_pretrained(tmp_path / "refiner")
    ours = sf.load(tmp_path / "base"), sf.load(tmp_path / "refiner")
    x = tiny_folders.start((1, 4, 8, 8))
    told = {"num_inference_steps": 10, "guidance_scale": 5.0, "negative_prompt": "ugly"}
    half = base("a red cat", latents=x.clone(), denoising_end=0.8, output_type="latent", height=16, width=16, **told)
    expected = refiner("a red cat", image=half.images, denoising_start=0.8, output_type="pt", **told).images
    grid = tiny_folders.times(base.scheduler, 10)
    asked = {"n": 1, "negative": "ugly", "guidance": 5.0, "grid": grid, "solver": "ddim"}
    first = ours[0]("a red cat", start=x, span=(1.0, 0.2), **asked)
    assert distance(ours[1]("a red cat", start=first.tensor, span=(0.2, 0.0), **asked), expected) < 0.1


def test_perturbed_attention_guides_as_theirs_does(tmp_path):
    scheduler = diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False, steps_offset=1)
    theirs = tiny_folders.sd("StableDiffusionPAGPipeline", scheduler=scheduler, pag_applied_layers="mid")
    tiny_folders.sd(scheduler=scheduler).save_pretrained(tmp_path)
    pipe = sf.load(tmp_path)
    x = tiny_folders.start((1, 4, 8, 8))
    told = {"num_inference_steps": 5, "guidance_scale": 5.0, "output_type": "pt", "latents": x.clone()}
    expected = theirs("a red cat", pag_scale=3.0, **told).images
    plain = theirs("a red cat", pag_scale=0.0, **told).images
    assert float((expected - plain).abs().max()) > 0.02  # it does something
    middle = [(lambda site: site.kind == "self" and site.stage == "middle", Perturbed())]
    cond, null = (pipe.conditioner([text]).cond for text in ("a red cat", ""))
    guided = ClassifierFree(denoiser=pipe.denoiser, scale=5.0, null=null)
    guided = SkipLayer(denoiser=guided, bad=Hooked(denoiser=pipe.denoiser, subscribe=middle), scale=3.0)
    grid = torch.tensor(tiny_folders.times(theirs.scheduler, 5), dtype=torch.float64)
    latents = sf.sample(guided, solver=sf.solvers.DDIM(), grid=grid, seeds=[0], x=x, cond=cond)
    with torch.no_grad():
        pixels = (pipe.codec.decode(latents) + 1).clamp(0, 2) * 127.5
    assert float((pixels - expected * 255).abs().max()) < 0.1
