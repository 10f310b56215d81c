"""A reader learns what captions say, its run is measured, and a text-to-image model starts from it."""

import json

import pytest

import sfumato as sf
from sfumato import InputError
from sfumato.cli import main
from sfumato.recipes import RECIPES, examined, override, train
from sfumato.recipes.reading import weights_of_reader
from sfumato.train import Run

SMALL = ["--net.text.width", "16", "--net.text.layers", "1", "--net.text.heads", "2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    words = [*SMALL, "--train.steps", "12", "--train.batch_size", "32", "--train.rate.warmup", "2"]
    recipe = override(RECIPES["tableau-reader"](), words)
    folder = Run.create(tmp_path_factory.mktemp("reader"), "reader", sf.to_config(recipe))
    trainer, _ = train(recipe, folder, quiet=True)
    return folder, trainer


def test_its_figures_are_shares_of_captions(run, capsys):
    folder, trainer = run
    found = {f.name: f for f in examined(folder.path, 50)}
    assert found["read_all"].value <= min(f.value for f in found.values())
    with pytest.raises(InputError, match="seed=0 is what the reader was trained on"):
        examined(folder.path, 50, seed=0)
    assert main(["evaluate", str(folder.path), "-n", "50", "--json"]) == 0
    told = {f["name"]: f["value"] for f in json.loads(capsys.readouterr().out)["model"]}
    assert told == {name: f.value for name, f in found.items()}
    with trainer.ema_weights() as model:
        averages = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    weights = weights_of_reader(folder.path)
    assert all(weights[name].equal(p) for name, p in averages.items())


def test_a_model_of_pictures_starts_from_it(run, tmp_path):
    from sfumato.codecs import AutoencoderKLConfig, save_codec

    coder = save_codec(
        AutoencoderKLConfig(widths=(8,), layers=1, patch=4, groups=0, middle=False).build(), tmp_path / "kl"
    )
    words = [*SMALL, "--net.net.widths", "16,16", "--net.net.groups", "4", "--net.net.heads", "2,2"]
    words += ["--net.net.context", "16", "--data.data.data.coder", str(coder), "--data.data.data.data.size", "8"]
    words += ["--data.data.data.path", str(tmp_path / "latents"), "--train.steps", "1", "--train.batch_size", "2"]
    words += ["--train.frozen", "text.*", "--start.path", str(run[0].path)]
    recipe = override(RECIPES["tableau"](), [*words, "--start.fresh", "net.*"])
    trainer, _ = train(recipe, quiet=True)
    read = weights_of_reader(run[0].path)
    for name, value in trainer.model.net.text.state_dict().items():
        assert value.equal(read[f"text.{name}"])
    with pytest.raises(InputError, match="does not fit: net"):
        train(override(RECIPES["tableau"](), words), quiet=True)


def test_it_learns():
    words = [
        *SMALL,
        "--train.steps",
        "60",
        "--train.batch_size",
        "32",
        "--train.rate.warmup",
        "5",
        "--train.lr",
        "1e-2",
    ]
    trainer, _ = train(override(RECIPES["tableau-reader"](), [*words, "--train.log_every", "10"]), quiet=True)
    losses = [line["loss"] for line in trainer.history]
    assert losses[-1] < 0.75 * losses[0], losses


def test_other_words_are_refused():
    with pytest.raises(InputError, match=r"give --net\.text these"):
        override(RECIPES["tableau-reader"](), ["--net.text.words", "7"])
