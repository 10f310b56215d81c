"""A recipe trains, and its run is a model: the averaged weights of the newest whole checkpoint."""

import dataclasses
import json

import pytest
import torch

import sfumato as sf
from sfumato.recipes import RECIPES, evaluation, override, recipe_of, train
from sfumato.train import Run

TINY = "--train.steps 3 --train.batch_size 8 --train.ema 10,100 --net.channels 8 --net.groups 2 --net.head_width 8"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    recipe = override(RECIPES["digits"](), TINY.split())
    run = Run.create(tmp_path_factory.mktemp("runs"), "tiny", sf.to_config(recipe))
    trainer, result = train(recipe, run, quiet=True)
    return recipe, run, trainer, result


def test_a_run_loads_with_its_longest_average(trained):
    recipe, run, trainer, result = trained
    assert result.steps == 3
    pipe = sf.load(run.path)
    average = trainer.state.ema.of(100.0)
    own = dict(trainer.model.net.named_parameters())
    for name, value in pipe.denoiser.net.named_parameters():
        assert torch.equal(value, average[name])
    assert any(not torch.equal(own[n], average[n]) for n in own)
    assert pipe.classes == tuple("0123456789")
    assert pipe.defaults == recipe.defaults
    with trainer.ema_weights() as denoiser:
        expected = recipe.pipeline(denoiser)("3", n=2, seed=5, steps=2).tensor
    assert torch.equal(pipe("3", n=2, seed=5, steps=2).tensor, expected)
    assert recipe_of(run) == recipe


def test_a_run_can_be_saved_as_a_pipeline(trained, tmp_path):
    pipe = sf.load(trained[1].path)
    again = sf.load(pipe.save(tmp_path / "m"))
    assert again.sha256() == pipe.sha256()


def test_sample_grids_are_written(trained):
    assert [p.name for p in sorted(trained[1].samples.iterdir())] == ["step-00000003.png"]


def test_initial_weights_follow_from_the_seed_and_touch_no_global_state():
    recipe = override(RECIPES["datasaurus"](), [])
    before = torch.get_rng_state()
    first, second = (recipe.denoiser().net.state_dict() for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[k], second[k]) for k in first)
    other = override(recipe, ["--train.seed", "1"]).denoiser().net.state_dict()
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_a_damaged_newest_checkpoint_gives_the_one_before(trained, tmp_path, capsys):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(trained[1].path, folder)
    weights = folder / "checkpoints" / "step-00000003" / "ema.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    pipe = sf.load(folder)
    start = trained[0].denoiser().net.state_dict()
    assert all(torch.equal(v, start[k]) for k, v in pipe.denoiser.net.state_dict().items())
    assert "passed over" in capsys.readouterr().err
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    with pytest.raises(sf.CheckpointError, match="no checkpoint yet"):
        sf.load(folder)
    config = json.loads((folder / "config.json").read_text())
    del config["recipe"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(sf.CheckpointError, match="not started from a recipe"):
        sf.load(folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--net.num_classes none", "the data has the conditions \\['y'\\], the network none"),
        ("--net.num_classes 9", "give --net.num_classes 10"),
        ("--net.in_channels 3 --net.out_channels 3", "does not take data of shape \\(1, 8, 8\\)"),
    ],
)
def test_a_network_that_does_not_take_the_data_is_refused_before_a_step(words, message):
    recipe = override(RECIPES["digits"](), (TINY + " " + words).split())
    with pytest.raises(sf.InputError, match=message) as caught:
        train(recipe, quiet=True)
    assert "\n" not in str(caught.value)


def test_evaluation_measures_real_rows_as_it_measures_samples(trained, monkeypatch):
    """A model that returns the held-out rows themselves scores as they do: distance 0, everything recognised alike."""
    recipe, run, *_ = trained
    pipe = sf.load(run.path)
    held = evaluation.rows(evaluation.held_out(recipe.data), 10_000)
    out = pipe("0", n=1, steps=1)
    order = []

    def perfect(self, prompt, n=1, *, seed=0):
        order.extend(prompt)
        return dataclasses.replace(out, tensor=held.x0[seed : seed + len(prompt)])

    monkeypatch.setattr(sf.Pipeline, "__call__", perfect)
    found = evaluation.evaluate(pipe, recipe.data, len(held.x0))
    assert order == held.cond["y"].tolist()
    model, real = ({f.name: f for f in side} for side in (found.model, found.real))
    assert abs(model["frechet_distance"].value) < 1e-6
    assert model["precision"].value == model["recall"].value == model["coverage"].value == 1.0
    assert model["class_recognised"].value == real["class_recognised"].value > 0.9
    assert real["frechet_distance"] > model["frechet_distance"]  # comparable: same counts, network and reference
    with pytest.raises(sf.InputError, match="evaluate it against the data"):
        evaluation.evaluate(pipe, RECIPES["datasaurus"]().data, 10)


def test_a_training_starts_from_what_another_learned(trained, tmp_path):
    recipe, run, trainer, _ = trained
    average = trainer.state.ema.of(100.0)
    again = override(recipe, ["--start.path", str(run.path), "--train.lr", "1e-30"])
    second, _ = train(again, quiet=True)
    for name, value in second.model.net.named_parameters():
        torch.testing.assert_close(value, average[name], rtol=0, atol=1e-20, msg=name)  # three steps of 1e-30 later

    fresh = override(again, ["--start.fresh", '["*_out.*"]'])
    third, _ = train(fresh, quiet=True)
    chance = recipe.denoiser().net.state_dict()
    kept = {n for n in chance if "_out." in n}
    assert kept
    for name, value in third.model.net.named_parameters():
        expected = chance[name] if name in kept else average[name]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-20, msg=name)

    wider = override(again, ["--net.channels", "16"])
    with pytest.raises(
        sf.InputError, match=r"does not fit: .* \(\[.*\] there, \[.*\] here\).* and \d+ more; change the network"
    ):
        train(wider, quiet=True)
    with pytest.raises(sf.InputError, match="nowhere"):
        train(override(recipe, ["--start.path", str(tmp_path / "nowhere")]), quiet=True)


def test_a_run_that_goes_on_asks_no_more_where_it_started(trained, tmp_path):
    import shutil

    source = tmp_path / "source"
    shutil.copytree(trained[1].path, source)
    recipe = override(trained[0], ["--start.path", str(source)])
    run = Run.create(tmp_path, "second", sf.to_config(recipe))
    train(recipe, run, quiet=True)
    shutil.rmtree(source)
    _, result = train(recipe_of(run), run, quiet=True)
    assert result.steps == 3
