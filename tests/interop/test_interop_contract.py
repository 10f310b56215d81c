"""What a checkpoint's numbers mean goes round with them in every layout, and every solver is held to it."""

import json

import diffusers
import pytest
import tiny_folders
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_interop_single import UNET, sd1

import sfumato as sf
from sfumato.interop.diffusers.writing import write_pipeline
from sfumato.interop.single.writing import write_single
from sfumato.pipeline.names import SOLVERS
from sfumato.solvers import Restart

ZERO = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CONTRACTS = {
    "eps": lambda: sd1(scheduler=diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False)),
    "v to zero signal": lambda: sd1(
        scheduler=diffusers.DDIMScheduler(**tiny_folders.BETAS, **ZERO, prediction_type="v_prediction")
    ),
    "other betas": lambda: sd1(scheduler=diffusers.DDIMScheduler(beta_end=0.03, clip_sample=False)),
    "flow": lambda: tiny_folders.sd3(scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=2.5)),
}


def contract(pipe):
    denoiser = pipe.denoiser
    codec = pipe.codec.config
    return (denoiser.schedule, denoiser.prediction, denoiser.scaling, codec.scale, codec.shift)


@pytest.mark.parametrize("kind", CONTRACTS)
def test_it_goes_round_through_every_layout(kind, tmp_path):
    CONTRACTS[kind]().save_pretrained(tmp_path / "theirs")
    pipe = sf.load(tmp_path / "theirs")
    first = contract(pipe)
    expected = {"eps": sf.Eps(), "v to zero signal": sf.V(), "other betas": sf.Eps(), "flow": sf.Flow()}
    assert first[1] == expected[kind]
    assert isinstance(first[0], sf.ZeroTerminalSNR) == (kind == "v to zero signal")
    if kind == "flow":
        assert first == (sf.Rectified(shift=2.5), sf.Flow(), sf.FlowTime(), 1.5305, 0.0609)
    write_single(pipe, tmp_path / "one.safetensors")
    one = sf.load(tmp_path / "one.safetensors", tokenizer=tmp_path / "theirs")
    one.save(tmp_path / "ours")
    ours = sf.load(tmp_path / "ours")
    write_pipeline(ours, tmp_path / "back")
    for again in (one, ours, sf.load(tmp_path / "back")):
        assert contract(again) == first
    if kind == "flow":  # whose shift and heads stand in no tensor
        return
    save_file(load_file(tmp_path / "one.safetensors"), tmp_path / "bare.safetensors")
    bare = contract(sf.load(tmp_path / "bare.safetensors", tokenizer=tmp_path / "theirs"))
    assert bare[1:] == first[1:]
    times = torch.linspace(0.001, 1.0, 50, dtype=torch.float64)
    for one, other in zip(bare[0](times), first[0](times), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)  # a table of single precision


BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
TABLE = sf.Table.from_betas(BETAS)
SCHEDULES = {"table": TABLE, "zero signal": sf.ZeroTerminalSNR(base=TABLE), "flow": sf.Rectified(shift=3.0)}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_solver_runs_on_every_contract_or_says_why_not(schedule):
    """On an exact denoiser: a solver that went by another contract would miss the data."""
    truth = sf.testing.GaussianMixture(means=[[-1.0, 0.0], [1.0, 0.5]], covariances=[0.05, 0.1], weights=[0.4, 0.6])
    denoiser = truth.denoiser(SCHEDULES[schedule])
    grid = sf.grids.logistic(SCHEDULES[schedule], 16)
    refused = set()
    for name, solver in SOLVERS.items():
        try:
            x = sf.sample(denoiser, (512, 2), solver=solver, grid=grid, seeds=range(512))
        except sf.InputError:
            refused.add(name)
            continue
        assert (x.mean(0) - torch.tensor([0.2, 0.3])).abs().max() < 0.15, name
        if not getattr(solver, "distilled", False):  # their samples lack spread with a model that is not
            assert (x.std(0) - torch.tensor([1.017, 0.37])).abs().max() < 0.15, name
    assert refused == {"ddpm-learned"}  # of a network that gives no variance


def test_what_does_not_fit_is_refused_before_a_network_runs(tmp_path):
    theirs = sd1(scheduler=diffusers.DDIMScheduler(**tiny_folders.BETAS, **ZERO, clip_sample=False))
    theirs.save_pretrained(tmp_path / "zero")  # the noise, on a schedule that ends without a signal
    pipe = sf.load(tmp_path / "zero")
    with pytest.raises(sf.InputError, match="alpha = 0"):
        pipe("a red cat", n=1, steps=2, grid="trailing", solver="ddim", size=(16, 16))
    sd1(scheduler=diffusers.DDIMScheduler(**tiny_folders.BETAS, clip_sample=False)).save_pretrained(tmp_path / "sd")
    pipe = sf.load(tmp_path / "sd")
    calls = []
    pipe.denoiser.net.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(sf.InputError, match=r"Restart\.high=.* is beyond sigma / alpha = 14\.6"):
        pipe("a red cat", n=1, steps=4, solver=Restart(high=20.0), size=(16, 16))
    with pytest.raises(sf.InputError, match="a learned variance needs a network"):
        pipe("a red cat", n=1, steps=4, solver="ddpm-learned", size=(16, 16))
    with pytest.raises(sf.InputError, match="unknown solver 'eulr'; did you mean 'euler'"):
        pipe("a red cat", n=1, solver="eulr")
    assert not calls


def test_formulations_that_are_not_read_are_refused_with_the_reason(tmp_path):
    sd1().save_pretrained(tmp_path / "theirs")
    held = load_file(write_single(sf.load(tmp_path / "theirs"), tmp_path / "one.safetensors"))
    net = {k: v for k, v in held.items() if k.startswith(UNET)}
    save_file(net | {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}, tmp_path / "edm.safetensors")
    with pytest.raises(sf.InputError, match=r"is of an EDM formulation \(edm_mean, sigma_max\), which is not read yet"):
        sf.load(tmp_path / "edm.safetensors")
    wide = net[UNET + "time_embed.2.weight"].shape[0]
    label = {
        UNET + "label_emb.0.0.weight": torch.zeros(wide, 1024),
        UNET + "label_emb.0.2.weight": torch.zeros(wide, wide),
    }
    save_file(net | label, tmp_path / "unclip.safetensors")
    with pytest.raises(sf.InputError, match=r"a vector of 1024 beside the time \(an unCLIP\) is not read"):
        sf.load(tmp_path / "unclip.safetensors")


ALONE = {
    "sd3": (sf.Rectified(shift=3.0), sf.Flow(), sf.FlowTime()),
    "lumina": (sf.Rectified(), sf.Flow(), sf.FlowTime(scale=-1.0, shift=1.0)),
    "dit": (torch.linspace(1e-4, 0.02, 1000), sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0)),
    "pixart": (torch.linspace(1e-4, 0.02, 1000), sf.Eps(), sf.Plain(scale=1000.0, shift=-1.0)),
    "hunyuan": (torch.linspace(0.00085**0.5, 0.03**0.5, 1000) ** 2, sf.V(), sf.Plain(scale=1000.0, shift=-1.0)),
}


@pytest.mark.parametrize("kind", ALONE)
def test_a_transformer_alone_has_the_contract_of_its_release(kind, tmp_path):
    getattr(tiny_folders, kind)().transformer.save_pretrained(tmp_path / "net")
    found = sf.load(tmp_path / "net").denoiser
    schedule, prediction, scaling = ALONE[kind]
    assert getattr(found.prediction, "prediction", found.prediction) == prediction
    assert not isinstance(getattr(found.prediction, "prediction", None), sf.core.LearnedVariance)
    assert found.scaling == scaling
    if isinstance(schedule, torch.Tensor):
        bars = torch.tensor(found.schedule.alphas_cumprod).float()
        torch.testing.assert_close(bars, torch.cumprod(1 - schedule, 0), rtol=1e-4, atol=0)
    else:
        assert found.schedule == schedule
    given = sf.load(tmp_path / "net", prediction=sf.Eps(), schedule=sf.VPLinear()).denoiser
    assert (given.schedule, getattr(given.prediction, "prediction", given.prediction)) == (sf.VPLinear(), sf.Eps())


def test_what_steers_is_no_model(tmp_path):
    diffusers.ControlNetModel.from_unet(tiny_folders.unet()).save_pretrained(tmp_path / "net")
    with pytest.raises(sf.InputError, match="holds a ControlNet, which steers a network"):
        sf.load(tmp_path / "net", prediction=sf.Eps())


def test_a_network_on_sixteen_channels_stands_alone(tmp_path):
    tiny_folders.sd3().save_pretrained(tmp_path / "theirs")
    pipe = sf.load(tmp_path / "theirs")
    write_single(pipe, tmp_path / "one.safetensors")
    with safe_open(tmp_path / "one.safetensors", "pt") as one:
        said = json.loads(one.metadata()["sfumato"]) | {"codec": None, "family": None, "towers": {}}
    net = {k.removeprefix(UNET): v for k, v in load_file(tmp_path / "one.safetensors").items() if k.startswith(UNET)}
    save_file(net, tmp_path / "net.safetensors", {"sfumato": json.dumps(said)})
    alone = sf.load(tmp_path / "net.safetensors")
    assert alone.shape == pipe.shape
    write_single(alone, tmp_path / "two.safetensors")
    again = load_file(tmp_path / "two.safetensors")
    assert again.keys() == net.keys()
    assert all(torch.equal(again[k], net[k]) for k in net)
    alone.save(tmp_path / "ours")
    assert sf.load(tmp_path / "ours").sha256() == alone.sha256()
    both = sf.load(tmp_path / "net.safetensors", codec=pipe.codec)
    assert both.codec is pipe.codec
    write_pipeline(alone, tmp_path / "folder")
    loaded = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "folder").state_dict()
    given = load_file(tmp_path / "theirs" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(loaded[k], given[k]) for k in given)
