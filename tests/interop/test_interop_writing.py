"""What we write, diffusers loads: the same tensors and settings, and the same pictures."""

import json

import diffusers
import pytest
import tiny_folders
import torch
from safetensors.torch import load_file

import sfumato as sf
from sfumato.core import LearnedVariance
from sfumato.interop.diffusers.folder import read_network
from sfumato.interop.diffusers.sampler import sampler
from sfumato.interop.diffusers.scheduler import SAMPLERS, contract
from sfumato.interop.diffusers.writing import write_network, write_pipeline
from sfumato.nets import DiTConfig

DDIM = {"clip_sample": False, "steps_offset": 1}
MADE = {
    "sd": tiny_folders.sd,
    "sd-v": lambda: tiny_folders.sd(
        scheduler=diffusers.DDIMScheduler(
            **tiny_folders.BETAS,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )
    ),
    "in-painting": lambda: tiny_folders.sd("StableDiffusionInpaintPipeline", unet_changes={"in_channels": 9}),
    "instructions": lambda: tiny_folders.sd("StableDiffusionInstructPix2PixPipeline", unet_changes={"in_channels": 8}),
    "xl": tiny_folders.xl,
    "xl in-painting": lambda: tiny_folders.xl("StableDiffusionXLInpaintPipeline", unet_changes={"in_channels": 9}),
    "refiner": lambda: tiny_folders.xl("StableDiffusionXLImg2ImgPipeline"),
    "sd3": tiny_folders.sd3,
    "pixart": tiny_folders.pixart,
    "dit": tiny_folders.dit,
    "hunyuan": tiny_folders.hunyuan,
    "lumina": tiny_folders.lumina,
    "sd3 without t5": lambda: tiny_folders.sd3(text_encoder_3=None, tokenizer_3=None),
}


def tensors(folder):
    """Return the tensors of a folder; CLIP's with the prefix of released files, which its newest writer leaves out."""
    return {
        (str(file.parent.relative_to(folder)), name.removeprefix("text_model.")): value
        for file in folder.rglob("*.safetensors")
        for name, value in load_file(file).items()
    }


@pytest.mark.parametrize("kind", MADE)
@torch.no_grad()
def test_a_folder_goes_round(kind, tmp_path):
    theirs = MADE[kind]()
    theirs.save_pretrained(tmp_path / "theirs")
    pipe = sf.load(tmp_path / "theirs")
    assert write_pipeline(pipe, tmp_path / "ours") == tmp_path / "ours"
    before, after = tensors(tmp_path / "theirs"), tensors(tmp_path / "ours")
    assert set(before) == set(after)
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    again = sf.load(tmp_path / "ours")
    assert again.sha256() == pipe.sha256()
    assert (again.defaults, again.denoiser.schedule) == (pipe.defaults, pipe.denoiser.schedule)
    absent = {n: None for n, part in theirs.components.items() if part is None}  # theirs asks for what may be absent
    loaded = type(theirs).from_pretrained(tmp_path / "ours", **absent)
    assert set(loaded.components) == set(theirs.components)
    for name in ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"):
        one, other = getattr(theirs, name, None), getattr(loaded, name, None)
        assert (one is None) == (other is None)
        if one is not None:
            assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values()))
    if type(theirs.scheduler).__name__ != "EulerDiscreteScheduler":  # which is DDIM, and is written as that
        assert type(loaded.scheduler) is type(theirs.scheduler)
    for key in (
        "prediction_type",
        "shift",
        "rescale_betas_zero_snr",
        "timestep_spacing",
        "beta_start",
        "beta_schedule",
    ):
        assert loaded.scheduler.config.get(key) == theirs.scheduler.config.get(key), key
    said = {"force_zeros_for_empty_prompt", "requires_aesthetics_score"}
    assert {k: loaded.config[k] for k in said if k in loaded.config} == {
        k: theirs.config[k] for k in said if k in theirs.config
    }
    if kind in ("sd", "sd-v", "xl", "sd3"):
        told = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
        draws = [torch.Generator().manual_seed(0) for _ in range(2)]
        pictures = [
            p("a red cat", generator=g, **told).images
            for p, g in zip((tiny_folders.quiet(loaded), tiny_folders.quiet(theirs)), draws)
        ]
        assert float(pictures[1].std()) > 0.05
        torch.testing.assert_close(*pictures, atol=1e-5 if kind.startswith("sd") else 1e-3, rtol=0)


def test_nothing_is_written_over_anything(tmp_path):
    tiny_folders.sd().save_pretrained(tmp_path / "theirs")
    pipe = sf.load(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "mine.txt").write_text("x")
    with pytest.raises(sf.InputError, match="nothing is overwritten"):
        write_pipeline(pipe, tmp_path / "ours")
    assert [p.name for p in (tmp_path / "ours").iterdir()] == ["mine.txt"]


def test_shards_hold_every_tensor_once_and_are_read(tmp_path):
    net = tiny_folders.unet()
    net.save_pretrained(tmp_path / "theirs")
    ours = read_network(tmp_path / "theirs")
    write_network(ours, tmp_path / "ours", shard=50_000, sample_size=8)
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 5
    assert all(f.stat().st_size < 50_000 + 9_000 or len(load_file(f)) == 1 for f in files)
    index = json.loads((tmp_path / "ours" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in net.state_dict().values())
    again = read_network(tmp_path / "ours").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in ours.state_dict().items())
    loaded = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "ours")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_contract_goes_round(name):
    config = dict(getattr(diffusers, name)().config) | {"_class_name": name, "steps_offset": 1, "shift": 2.5}
    for changes in ({}, {"timestep_spacing": "trailing"}, {"prediction_type": "v_prediction"}):
        said = contract(config | (changes if "prediction_type" in config or "shift" not in config else {}))
        back = contract(sampler(said.schedule, said.prediction, said.solver, said.grid))
        assert (back.schedule, back.prediction, back.scaling) == (said.schedule, said.prediction, said.scaling)
        if name not in ("DEISMultistepScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"):
            known = name not in ("SASolverScheduler", "IPNDMScheduler", "EulerAncestralDiscreteScheduler")
            assert not known or back.solver == said.solver


def test_a_schedule_that_a_folder_cannot_say_is_refused(tmp_path):
    net = DiTConfig(size=4, channels=4, patch=2, layers=1, width=16, heads=2, num_classes=3).build()
    pipe = sf.Pipeline(denoiser=sf.Preconditioned(net, sf.VPCosine(), sf.Eps(), sf.Plain()), shape=(4, 4, 4))
    with pytest.raises(sf.InputError, match="VPCosine with Eps cannot be written"):
        write_pipeline(pipe, tmp_path / "m")
    table = sf.Table.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    pipe.denoiser = sf.Preconditioned(net, table, LearnedVariance(prediction=sf.Eps()), sf.Plain(scale=3.0))
    with pytest.raises(sf.InputError, match="labels of Plain cannot be written"):
        write_pipeline(pipe, tmp_path / "m")
    assert not (tmp_path / "m").exists()
