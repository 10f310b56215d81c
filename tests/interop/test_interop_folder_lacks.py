"""Folders that lack something, or say what is not read: what can be taken is, the rest is refused by name."""

import json
import shutil
import warnings

import diffusers
import pytest
import tiny_folders
import torch
from safetensors.torch import load_file, save_file

import sfumato as sf
from sfumato.conditioning.tower_files import read_tower
from sfumato.interop.diffusers.sampler import sampler
from sfumato.interop.diffusers.scheduler import contract, known
from sfumato.interop.single.writing import write_single
from sfumato.solvers import DDIM, DDPM, DEIS, DPMpp2S, Euler

SCHEDULER = "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    tiny_folders.sd().save_pretrained(root / "sd")
    tiny_folders.sd3().save_pretrained(root / "sd3")
    return root


@pytest.fixture
def folder(made, tmp_path):
    """Return a copy of Stable Diffusion's folder, to be spoilt."""
    return shutil.copytree(made / "sd", tmp_path / "sd")


def changed(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def refused(match, *args, **kwargs):
    """Assert that a folder is refused in one line."""
    with pytest.raises(sf.core.SfumatoError, match=match) as error:
        sf.load(*args, **kwargs)
    assert "\n" not in str(error.value)


UNREAD = {
    "algorithm_type='dpmsolver' is not read": {"algorithm_type": "dpmsolver"},
    "algorithm_type='sde-dpmsolver' is not read": {"algorithm_type": "sde-dpmsolver"},
    "solver_order='2' is no number": {"solver_order": "2"},
    "use_beta_sigmas is not read": {"use_beta_sigmas": True},
    "timestep_spacing='odd' is not read": {"timestep_spacing": "odd"},
    "the sampler of DPMSolverSDEScheduler is not read": {"_class_name": "DPMSolverSDEScheduler"},
}


@pytest.mark.parametrize("said", UNREAD)
def test_a_sampler_that_is_not_read_is_a_default_that_is_lost_with_a_word(said, folder):
    plain = sf.load(folder).denoiser
    changed(folder / SCHEDULER, **{"_class_name": "DPMSolverMultistepScheduler"} | UNREAD[said])
    with pytest.warns(UserWarning, match=said) as warned:
        pipe = sf.load(folder)
    assert len([w for w in warned if "scheduler_config.json" in str(w.message)]) == 1
    assert (pipe.denoiser.schedule, pipe.denoiser.prediction) == (plain.schedule, plain.prediction)
    usual = pipe.defaults.solver == DEIS(), pipe.defaults.grid == "logistic"
    assert usual == ("sigmas" not in said and "spacing" not in said, "order" not in said and "algorithm" not in said)


def test_a_grid_of_ours_alone_is_not_written_as_one_that_nobody_reads():
    table = contract({"_class_name": "DDIMScheduler", "clip_sample": False}).schedule
    said = sampler(table, sf.Eps(), DDIM(), "logistic")
    assert said["timestep_spacing"] in ("leading", "linspace", "trailing")


def test_schedulers_in_batches_and_steps_of_one_are_those_they_are():
    assert contract({"_class_name": "DDPMParallelScheduler"}) == contract({"_class_name": "DDPMScheduler"})
    assert contract({"_class_name": "DDPMParallelScheduler"}).solver == DDPM()
    assert contract({"_class_name": "DPMSolverSinglestepScheduler"}).solver == DPMpp2S()
    third = contract({"_class_name": "DPMSolverSinglestepScheduler", "solver_order": 3})
    assert third.solver == DEIS()
    assert "solver_order=3" in third.untaken[0]
    flow = contract({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_karras_sigmas": True})
    assert (flow.solver, flow.grid) == (Euler(), "flow")
    assert "use_karras_sigmas" in flow.untaken[0]


MEANT = {
    "num_train_timesteps='x' is no number": {"num_train_timesteps": "x"},
    "num_train_timesteps=2.5 is no whole number": {"num_train_timesteps": 2.5},
    "beta_start='a' is no number": {"beta_start": "a"},
    "trained_betas='x' is no list": {"trained_betas": "x"},
    "prediction_type='foo' is not known": {"prediction_type": "foo"},
    "beta_schedule='sigmoid' is not known": {"beta_schedule": "sigmoid"},
    "'MyScheduler' is not known": {"_class_name": "MyScheduler"},
    "use_dynamic_shifting": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True},
    "invert_sigmas": {"_class_name": "FlowMatchEulerDiscreteScheduler", "invert_sigmas": True},
    "prediction_type='epsilon' with use_flow_sigmas": {
        "_class_name": "UniPCMultistepScheduler",
        "use_flow_sigmas": True,
        "prediction_type": "epsilon",
    },
    "timestep_type='continuous' is of an EDM formulation": {
        "_class_name": "EulerDiscreteScheduler",
        "timestep_type": "continuous",
        "prediction_type": "v_prediction",
    },
    "EDMEulerScheduler is of an EDM formulation": {"_class_name": "EDMEulerScheduler"},
}


@pytest.mark.parametrize("said", MEANT)
def test_a_contract_that_is_not_understood_is_refused_with_its_file_and_field(said, folder):
    changed(folder / SCHEDULER, **MEANT[said])
    refused(f"{SCHEDULER}: .*{said}", folder)


@pytest.mark.parametrize("said", MEANT)
def test_what_is_given_comes_before_what_is_not_understood(said, folder):
    changed(folder / SCHEDULER, **MEANT[said])
    told = {"prediction": sf.V(), "schedule": sf.VPLinear()}
    if "EDM" in said or "invert" in said or "num_train" in said:  # what the labels mean is in neither
        return refused(f"{SCHEDULER}: .*{said}", folder, **told)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        found = sf.load(folder, **told).denoiser
    assert (found.prediction, found.schedule) == (sf.V(), sf.VPLinear())
    assert ("nothing of it is read" in " ".join(str(w.message) for w in warned)) == ("MyScheduler" in said)


def test_continuous_labels_of_the_noise_are_the_usual_ones_as_theirs_are():
    config = {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}
    theirs = diffusers.EulerDiscreteScheduler(timestep_type="continuous")
    theirs.set_timesteps(4)
    assert theirs.timesteps.tolist() == [999.0, 666.0, 333.0, 0.0]
    assert contract(config).scaling == sf.Plain(scale=1000.0, shift=-1.0)


def test_every_scheduler_of_theirs_is_read_or_refused_by_name():
    names = [n for n in dir(diffusers) if n.endswith("Scheduler") and "Flax" not in n]
    assert len(names) > 30
    assert {"DDPMParallelScheduler", "DPMSolverSDEScheduler", "EDMEulerScheduler"} <= {n for n in names if known(n)}


def test_a_folder_without_a_scheduler_asks_for_both_that_it_would_tell(folder):
    shutil.rmtree(folder / "scheduler")
    ask = "give both prediction= (--prediction) and schedule="
    for told in ({}, {"prediction": sf.V()}, {"schedule": sf.VPLinear()}):
        refused(ask.replace("(", r"\(").replace(")", r"\)"), folder, **told)
    table = sf.Table.from_betas(torch.linspace(1e-4, 0.02, 500, dtype=torch.float64))
    pipe = sf.load(folder, prediction=sf.V(), schedule=table)
    assert (pipe.denoiser.prediction, pipe.denoiser.schedule) == (sf.V(), table)
    assert pipe.denoiser.scaling == sf.Plain(scale=500.0, shift=-1.0)
    assert pipe("a cat", n=1, steps=2).pixels.isfinite().all()


def test_parts_without_the_variant_have_their_plain_weights_as_theirs_do(folder):
    net = folder / "unet" / "diffusion_pytorch_model.safetensors"
    halves = {name: t.half() for name, t in load_file(net).items()}
    save_file(halves, net.with_name("diffusion_pytorch_model.fp16.safetensors"))
    loaded = diffusers.StableDiffusionPipeline.from_pretrained(folder, variant="fp16", safety_checker=None)
    pipe = sf.load(folder, variant="fp16")
    plain = sf.load(folder)
    ours, other = (next(p.denoiser.net.parameters()) for p in (pipe, plain))
    assert (ours.dtype, other.dtype) == (torch.float16, torch.float32)
    assert next(pipe.codec.parameters()).dtype == torch.float32
    theirs = loaded.unet.state_dict()
    assert any(torch.equal(theirs[k].half(), t) for k, t in halves.items())
    refused(
        r"the variant 'bf16' of none of its parts unet, vae, text_encoder: leave variant= out", folder, variant="bf16"
    )
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        folder / "vae" / "diffusion_pytorch_model.ema.safetensors"
    )
    refused(r"vae has no diffusion_pytorch_model\.fp16\.safetensors", folder, variant="fp16")  # ema is another


def test_a_part_that_the_index_names_and_nobody_fetched_is_refused(made, folder, tmp_path):
    shutil.rmtree(folder / "vae")
    refused(r"vae is missing, which model_index\.json names: fetch it, or give codec= \(--codec\)", folder)
    pipe = sf.load(folder, codec=made / "sd" / "vae")
    assert pipe("a cat", n=1, steps=2).pixels.shape[1] == 3
    write_single(sf.load(made / "sd"), tmp_path / "one.safetensors")
    refused(r"does not tell the scale .* give codec=sf\.load_codec", folder, codec=tmp_path / "one.safetensors")
    changed(folder / "model_index.json", vae=[None, None])  # said to have none
    assert sf.load(folder).codec is None
    shutil.rmtree(folder / "text_encoder")
    refused(r"text_encoder is missing, which model_index\.json names", folder)


def test_an_encoder_that_the_family_works_without_may_be_missing(made, tmp_path):
    folder = shutil.copytree(made / "sd3", tmp_path / "sd3")
    shutil.rmtree(folder / "text_encoder_3")
    assert set(sf.load(folder).conditioner.towers) == {"clip_l", "clip_g"}


def test_the_tokenizer_of_another_encoder_is_refused(made, folder, tmp_path):
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(made / "sd3" / "tokenizer_3", folder / "tokenizer")
    refused("tokenizer holds a T5Tokenizer, a CLIPTextModel reads what a CLIPTokenizer makes", folder)
    (folder / "tokenizer" / "tokenizer_config.json").unlink()
    refused(r"CLIPTextModel knows 5\d\d words, its tokenizer has \d\d:", folder)
    one, three = tmp_path / "sd.safetensors", tmp_path / "sd3.safetensors"
    write_single(sf.load(made / "sd"), one)
    write_single(sf.load(made / "sd3"), three)
    refused(r"tokenizer_3 has none of CLIP's", one, tokenizer=made / "sd3" / "tokenizer_3")
    refused(r"tokenizer has none of T5's.*T5's tokenizer\.json", three, tokenizer=made / "sd3" / "tokenizer")
    assert set(sf.load(three, tokenizer=made / "sd3").conditioner.towers) == {"clip_l", "clip_g", "t5"}
    assert sf.load(one, tokenizer=made / "sd3" / "tokenizer").conditioner is not None


def test_a_tokenizer_with_more_words_than_the_encoder_has_rows_is_refused(made, tmp_path):
    encoder = shutil.copytree(made / "sd" / "text_encoder", tmp_path / "encoder")
    file = encoder / "model.safetensors"
    held = load_file(file)
    (name,) = (n for n in held if n.endswith("token_embedding.weight"))
    rows = held[name].shape[0] - 1
    save_file(held | {name: held[name][:rows].clone()}, file)
    changed(encoder / "config.json", vocab_size=rows)
    with pytest.raises(sf.CheckpointError, match=f"knows {rows} words, its tokenizer has {rows + 1}"):
        read_tower(encoder, made / "sd" / "tokenizer")


def test_a_pipeline_class_far_from_all_that_are_read_suggests_none(folder):
    changed(folder / "model_index.json", _class_name="FluxPipeline")
    refused("'FluxPipeline' is not read; known: DDIM, DDPM", folder)
    changed(folder / "model_index.json", _class_name="StableDiffusion2Pipeline")
    refused("did you mean 'StableDiffusion", folder)


WRONG = {
    r"prediction='v' is no prediction: give an object, sf\.Eps\(\), sf\.V\(\)": {"prediction": "v"},
    r"prediction=<class .*V'> is no prediction": {"prediction": sf.V},
    r"schedule='x' is no schedule: give an object": {"schedule": "x"},
    r"dtype='fp16' is no dtype that networks run in: give torch\.float32": {"dtype": "fp16"},
    r"dtype=torch\.int8 is no dtype": {"dtype": torch.int8},
    r"device='nowhere' cannot be used here": {"device": "nowhere"},
    r"device=2\.5 cannot be used here": {"device": 2.5},
}


@pytest.mark.parametrize("said", WRONG)
def test_an_argument_that_is_none_is_named_and_not_the_model(said, folder):
    refused(f"^{said}", folder, **WRONG[said])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_said_so(folder):
    refused("^device='cuda' cannot be used here", folder, device="cuda")
