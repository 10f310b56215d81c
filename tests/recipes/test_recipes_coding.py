"""A codec's recipe trains, its run is a codec, and its figures are those of its reconstructions."""

import json

import pytest
import torch

import sfumato as sf
from sfumato.cli import main
from sfumato.codecs import IdentityConfig, save_codec
from sfumato.core import Noise
from sfumato.data import Glimpses, Tableau
from sfumato.recipes import RECIPES, CodecRecipe, codec_of_run, override, recipe_of, reconstruction, train
from sfumato.train import Run

SMALL = "--train.steps 3 --train.batch_size 4 --train.ema 10,100"
SHRUNK = {
    "tableau-kl": "--codec.widths [8] --objective.adversary.start 1",
    "tableau-vq": "--codec.widths [8] --codec.codes 32 --objective.adversary.start 1",
    "tableau-dvae": "--codec.width 8 --codec.codes 32",
    "tableau-vae": "--codec.widths 8,8,8",
    "tableau-tiny": "--codec.width 8",
}


def shrunk(name, tmp_path):
    words = f"{SMALL} {SHRUNK[name]}".split()
    if name == "tableau-tiny":
        teacher = override(RECIPES["tableau-kl"](), SHRUNK["tableau-kl"].split()).codec.build()
        words += ["--objective.teacher", str(save_codec(teacher, tmp_path / "teacher"))]
    return override(RECIPES[name](), words)


@pytest.mark.parametrize("name", sorted(SHRUNK))
def test_it_trains_and_its_run_is_a_codec(name, tmp_path):
    recipe = shrunk(name, tmp_path)
    run = Run.create(tmp_path, "tiny", sf.to_config(recipe))
    trainer, result = train(recipe, run, quiet=True)
    assert result.steps == 3
    assert recipe_of(run) == recipe
    codec = codec_of_run(run.path)
    average = trainer.state.ema.of(100.0)
    for key, value in codec.named_parameters():
        assert torch.equal(value, average[f"codec.{key}"])
    assert not codec.training
    assert [p.name for p in run.samples.iterdir()] == ["step-00000003.png"]
    figures = {f.name: f for f in reconstruction(codec, recipe.judged, 8)}
    x = recipe.judged.batch([i * 2000 // 8 for i in range(8)], Noise(range(8))).x0
    made = codec.decode(codec.encode(x)).clamp(-1, 1)
    mse = (x - made).double().square().mean((1, 2, 3))
    assert abs(figures["psnr"].value - float((10 * torch.log10(4 / mse)).mean())) < 1e-3
    assert figures["psnr"].n == 8
    assert ("perplexity" in figures) == (name in ("tableau-vq", "tableau-dvae"))
    assert ("bound" in figures) == (name == "tableau-vae")
    with pytest.raises(sf.InputError, match="makes no pictures by itself"):
        sf.load(run.path)


def test_the_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = f"train tableau-vae --quiet {SMALL} {SHRUNK['tableau-vae']}".split()
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "sfumato evaluate" in said
    folder = said.split()[-1]
    assert main(["evaluate", folder, "-n", "8", "--json"]) == 0
    figures = capsys.readouterr().out
    assert {f["name"] for f in json.loads(figures)["model"]} == {"psnr", "ssim", "bound"}
    (tmp_path / "before.json").write_text(figures)
    assert main(["evaluate", folder, "-n", "8", "--against", "before.json"]) == 0
    assert "change: +0" in capsys.readouterr().out
    assert main(["evaluate", folder, "--data", "digits"]) == 2
    assert "is the run of a codec" in capsys.readouterr().err


def test_what_cannot_be_is_refused_before_a_step(tmp_path):
    recipe = override(shrunk("tableau-vae", tmp_path), ["--codec.size", "16"])
    with pytest.raises(sf.InputError, match=r"the codec (does not take|makes) pictures"):
        train(recipe, quiet=True)
    with pytest.raises(sf.InputError, match="is not a CodecObjective"):
        sf.from_config(sf.to_config(recipe) | {"objective": {"kind": "VPCosine"}}, CodecRecipe)
    digits = override(RECIPES["digits"](), ["--train.steps", "1", "--train.batch_size", "2"])
    run = Run.create(tmp_path, "digits", sf.to_config(digits))
    with pytest.raises(sf.InputError, match="trains no codec"):
        codec_of_run(run.path)


def test_a_codec_that_changes_nothing_keeps_everything():
    data = Tableau(size=20, side=16, styles=(), weights=())
    figures = {f.name: f.value for f in reconstruction(IdentityConfig().build(), data, 20)}
    assert figures["psnr"] == float("inf")
    assert figures["ssim"] == 1.0


def test_glimpses_are_cuts_and_small_pictures():
    world = Tableau(size=10, side=32, styles=(), weights=())
    found, noise = Glimpses(data=world, side=16), Noise([5, 6, 7])
    x = found.batch([2, 3, 4], noise).x0
    whole = world.batch([2, 4], noise.rows([0, 2])).x0
    for k, picture in ((0, whole[0]), (2, whole[1])):
        down, right = (int(noise.uniform(axis)[k] * 17) for axis in ("down", "right"))
        assert torch.equal(x[k], picture[:, down : down + 16, right : right + 16])
    small = Tableau(size=10, side=16, styles=(), weights=())
    assert torch.equal(x[1], small.batch([3], Noise([0])).x0[0])
    assert torch.equal(found.batch([4], noise.rows([2])).x0[0], x[2])
    assert found.fingerprint != Glimpses(data=world, side=8).fingerprint
    with pytest.raises(sf.InputError, match="at least that many"):
        Glimpses(data=world, side=33)


def test_a_decoder_is_trained_on_while_latents_stay(tmp_path):
    base = override(shrunk("tableau-kl", tmp_path), ["--objective.adversary", "none"])
    run = Run.create(tmp_path, "whole", sf.to_config(base))
    train(base, run, quiet=True)
    first = codec_of_run(run.path)
    words = [
        "--start.path",
        str(run.path),
        "--train.frozen",
        "codec.encoder.*,codec.moments.*",
        "--objective.beta",
        "0",
    ]
    trainer, _ = train(override(base, words), quiet=True)
    x = base.judged.batch(range(4), Noise(range(4))).x0
    second = trainer.model.codec.eval()
    assert torch.equal(first.encode(x), second.encode(x))
    assert float((first.decode(first.encode(x)) - second.decode(second.encode(x))).detach().abs().max()) > 1e-4
    folder = save_codec(second, tmp_path / "second")
    third, _ = train(override(base, ["--start.path", str(folder), "--train.lr", "1e-30"]), quiet=True)
    for (name, p), q in zip(third.model.codec.named_parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-20, msg=name)
